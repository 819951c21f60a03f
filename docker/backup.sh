#!/bin/sh
# Back up both databases and the files, and put a backup back:
#   backup.sh make FOLDER            server and workers may go on
#   backup.sh restore FOLDER/DATE    with server and workers stopped; then run `temper verify`
#
# FOLDER/DATE has the databases; FOLDER/store has the files of all backups, each once, since none ever changes.
# PGHOST, PGUSER and PGPASSWORD say where PostgreSQL is, STORE where the files are (empty: not here).
set -eu
umask 077

copy_missing() { # from one folder to another, never leaving half a file under its name
    [ -d "$1" ] || { echo "there is no folder $1; for files in a bucket set STORE to nothing" >&2; exit 1; }
    mkdir -p "$2"
    (cd "$1" && find . -path './??/*' -type f ! -name '*.unfinished') | while IFS= read -r file; do
        [ -e "$2/$file" ] && continue
        mkdir -p "$2/${file%/*}"
        cp "$1/$file" "$2/$file.unfinished"
        chmod 444 "$2/$file.unfinished"
        mv "$2/$file.unfinished" "$2/$file"
    done
    sync
}

case ${1-} in
make)
    while made=${2:?give the folder of the backups}/$(date -u +%Y-%m-%dT%H%M%SZ)
        [ -e "$made" ] || [ -e "$made.unfinished" ]
    do sleep 1; done # two of one second would be one
    mkdir -p "$made.unfinished"
    for database in temper prefect; do
        pg_dump --format=custom --file="$made.unfinished/$database.dump" "$database"
    done
    # The files after the databases: so all that these know of is there.
    [ -z "${STORE-}" ] || copy_missing "$STORE" "$2/store"
    mv "$made.unfinished" "$made"
    echo "$made"
    ;;
restore)
    backup=${2:?give one of the backups}
    for database in temper prefect; do
        [ -f "$backup/$database.dump" ] || { echo "$backup: no $database.dump in it" >&2; exit 1; }
    done
    # The files before the databases: so these never know of what is not there.
    [ -z "${STORE-}" ] || copy_missing "$(dirname "$backup")/store" "$STORE"
    for database in temper prefect; do
        pg_restore --clean --if-exists --no-owner --single-transaction --exit-on-error \
            --dbname="$database" "$backup/$database.dump"
    done
    ;;
*)
    echo "backup.sh make FOLDER, or backup.sh restore FOLDER/DATE" >&2
    exit 2
    ;;
esac
