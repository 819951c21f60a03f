"""The store behind a URL of fsspec, such as ``s3://bucket/prefix``, with a cache on this machine."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from db.errors import MissingFile, ProvenanceError
from db.folder_store import FolderStore
from db.store import CHUNK, NAME, DamagedFile, Source, Store, StoredFile, StoreUnavailable, require_sha256

UPLOAD = "?uploadId="  # how S3 itself addresses an upload in parts


class RemoteStore(Store):
    """Objects, named as the files of a folder.

    On S3 an object appears whole or not at all, also when its upload is killed; so it does on other object
    stores. A file system behind a URL (SFTP) may show a half-written file, which nothing on record refers to.

    No lock keeps ``put`` and ``remove`` apart. ``put`` always uploads, which makes an object new, and
    ``remove`` looks again right before it deletes. So garbage collection can lose bytes only if they lay
    there unused for the grace period, and are put again between these two requests. ``temper verify`` then
    misses them, and their step is computed again. Times are the server's: its clock need not agree with
    ours, but for the grace period.

    Bytes are used from a cache, a store in a folder, which may be deleted at any time.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self.place = url.rstrip("/")
        self._cache = FolderStore(cache)

    def receive(self, source: Source, suffix: str, *, expected: str | None = None) -> str:
        """See ``Store.receive``. The name is known when all is read; until then the cache keeps the bytes."""
        artifact_id = self._cache.receive(source, suffix, expected=expected)
        copy, stored = self._cache.path(artifact_id), self.find(artifact_id)
        location = stored.location if stored else f"{self.place}/{artifact_id[:2]}/{artifact_id[2:]}{suffix}"
        with self._reaching():
            self._files().put_file(str(copy), self._key(location))
        return artifact_id

    def path(self, artifact_id: str) -> Path:
        """See ``Store.path``. It is downloaded unless the cache has it sound."""
        with suppress(MissingFile, DamagedFile):
            return self._cache.path(artifact_id)
        file = self.stat(artifact_id)
        suffix = file.location.rpartition("/")[2][62:]
        try:
            with self._opened(file) as source:
                self._cache.receive(source, suffix, expected=artifact_id)
        except DamagedFile as error:
            raise DamagedFile.at(file.location) from error
        return self._cache.path(artifact_id)

    def find(self, artifact_id: str) -> StoredFile | None:
        """See ``Store.find``. One request, whatever else the store holds."""
        require_sha256(artifact_id)
        with self._reaching():
            found = self._files().glob(
                f"{self._key(self.place)}/{artifact_id[:2]}/{artifact_id[2:]}*", detail=True
            )
            return min(self._stored(found), key=lambda file: file.location, default=None)

    def verify(self, artifact_id: str) -> bool:
        """See ``Store.verify``. It reads what the server has, not the cache."""
        digest = hashlib.sha256()
        with self._opened(self.stat(artifact_id)) as source:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest() == artifact_id

    def files(self) -> Iterator[StoredFile]:
        """See ``Store.files``."""
        with self._reaching():
            found = list(self._stored(self._files().find(self._key(self.place), detail=True)))
        return iter(found)

    def unfinished(self) -> Iterator[StoredFile]:
        """See ``Store.unfinished``: uploads in parts, which S3 keeps unseen, and copies into the cache."""
        yield from self._cache.unfinished()
        with self._reaching():
            files, root = self._files(), self._key(self.place)
            bucket = root.partition("/")[0]
            listed = files.list_multipart_uploads(bucket) if hasattr(files, "list_multipart_uploads") else []
            uploads = [
                StoredFile(
                    artifact_id="",
                    location=f"{self.place}/{key}{UPLOAD}{upload['UploadId']}",
                    size=0,
                    written_at=upload["Initiated"],
                )
                for upload in listed
                if (key := _below(root, f"{bucket}/{upload['Key']}"))
            ]
        yield from uploads

    def remove(self, file: StoredFile) -> bool:
        """See ``Store.remove``; from the cache of this machine it goes too."""
        if not file.location.startswith(self.place):
            return self._cache.remove(file)
        location, _, upload = file.location.partition(UPLOAD)
        if upload:
            if file not in self.unfinished():
                return False
            bucket, _, key = self._key(location).partition("/")
            with self._reaching():
                self._files().abort_mpu(bucket, key, upload)
            return True
        if self.find(file.artifact_id) != file:
            return False
        with self._reaching():
            self._files().rm_file(self._key(location))
        if copy := self._cache.find(file.artifact_id):
            self._cache.remove(copy)
        return True

    def _files(self) -> Any:
        """The file system; fsspec keeps one for each process and thread. What it has listed is forgotten."""
        files = fsspec.url_to_fs(self.place)[0]
        files.invalidate_cache()
        return files

    def _key(self, location: str) -> str:
        """The name of an object without ``s3://``."""
        return str(fsspec.url_to_fs(location)[1])

    def _stored(self, found: dict[str, Any]) -> Iterator[StoredFile]:
        """Those of a listing that have the name of a file of a store."""
        files, root = self._files(), self._key(self.place)
        for key, about in found.items():
            name = NAME.fullmatch(_below(root, key))
            if name is not None and about["type"] == "file":
                yield StoredFile(
                    artifact_id=name[1] + name[2],
                    location=f"{self.place}/{name[0]}",
                    size=about["size"],
                    written_at=about.get("LastModified") or files.modified(key),
                )

    @contextmanager
    def _opened(self, file: StoredFile) -> Iterator[Source]:
        """The bytes of an object."""
        with self._reaching(), self._files().open(self._key(file.location), "rb") as opened:
            yield _Download(opened, self._reaching)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Whatever a file system says in its own words is one error of ours."""
        try:
            yield
        except ProvenanceError:
            raise
        except ImportError as error:
            raise StoreUnavailable(
                f"the store {self.place} needs a package that is missing: {error}; for s3:// it is "
                "pip install 'temper-mlip[s3]'"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreUnavailable(
                f"the store {self.place} cannot be used: {reason}; check TEMPER_STORE, its server "
                "(AWS_ENDPOINT_URL) and the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY), then run again"
            ) from error


@dataclass(frozen=True)
class _Download:
    """An object that is read into a file. What goes wrong here is not the fault of the disk."""

    opened: Any
    reaching: Callable[[], AbstractContextManager[None]]

    def read(self, size: int, /) -> bytes:
        with self.reaching():
            return bytes(self.opened.read(size))


def _below(root: str, key: str) -> str:
    """The part of an object's name after that of the store; empty if it is not in the store."""
    return key.removeprefix(f"{root}/") if key.startswith(f"{root}/") else ""
