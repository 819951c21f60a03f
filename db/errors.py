"""What can go wrong with a record. Each message is one line that says what to do."""


class ProvenanceError(ValueError):
    """Base of every error this package raises on purpose."""


class UnknownArtifact(ProvenanceError):
    """No artifact has this id, prefix or alias."""


class AmbiguousArtifact(ProvenanceError):
    """A prefix that several artifacts share."""


class ConflictingMetadata(ProvenanceError):
    """The same bytes were imported before, with a different statement about them."""


class MissingFile(ProvenanceError):
    """A file that should be there is not."""


class BadAlias(ProvenanceError):
    """A name that is not of the form ``nacl@champion``."""


class NotCanonical(ProvenanceError):
    """A value that has no unambiguous JSON form."""


class DatabaseUnavailable(ProvenanceError):
    """The database cannot be reached, or the driver for it is not installed."""


class SchemaTooNew(ProvenanceError):
    """The database was made by a newer Temper than this one."""


class Retracted(ProvenanceError):
    """Something was to be promoted that is retracted, or made from what is."""


class BadRetraction(ProvenanceError):
    """A retraction without a reason, or the end of one that does not exist."""


class ForbiddenLicence(ProvenanceError):
    """Something was made from an artifact whose licence is forbidden here."""
