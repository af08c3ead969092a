"""What goes wrong with partitions. `retry` says whether the same call may go through later."""

from pg.errors import MisterSmithError


class PartitionError(MisterSmithError):
    """Root of this room's errors."""


class UnknownTable(PartitionError):
    """No policy, or no archive, of that name."""


class Busy(PartitionError):
    """Another run has the table, or a lock was not to be had in time."""

    retry = True


class ArchiveFailed(PartitionError):
    """An archive could not be written, read or copied; the partition is as it was."""

    retry = True


class ArchiveDamaged(PartitionError):
    """The file is not what was written. Nothing is dropped for its sake."""


class StaleArchive(PartitionError):
    """Rows changed after they were archived."""

    retry = True
