"""What can go wrong because of what a person has or did: one sentence each, with what to do about it."""

from __future__ import annotations


class FsLocalError(Exception):
    """Base of every error that is meant to be read by a person. The command line prints it and exits with 1."""


class ModelError(FsLocalError):
    """A model file that can't be found, read, or used for what was asked."""


class DataError(FsLocalError):
    """Examples that can't be used; the message names the file and the line."""


class NotThereError(DataError):
    """A lesson, or a row of one, that there is not."""


class TakenError(DataError):
    """A name that another lesson has."""


class FitError(FsLocalError):
    """States or parameters that nothing can be fitted on."""


class PackError(FsLocalError):
    """A pack that can't be read, is damaged, or belongs to another model."""


class ContextFullError(FsLocalError):
    """A query that is longer than the context has room for."""


class ResumeError(FsLocalError):
    """A capture that can't be kept or resumed: a full disk, or a damaged resume file."""


class ResumeWarning(UserWarning):
    """A capture that starts again, wholly or in part, where one might expect it to go on."""


class EngineFull(FsLocalError):
    """More requests wait than the engine takes."""


class EngineClosed(FsLocalError):
    """The engine was closed, or belongs to another process, before the answer was there."""
