"""Whose work reading states is: the options of the commands that read them by the thousand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from fs_local.runtime.model import Model

Jobs = Annotated[
    int, typer.Option(min=1, help="Processes that read states side by side, with this machine's cores between them.")
]
Cluster = Annotated[
    Optional[str],
    typer.Option(
        metavar="ADDRESS",
        help="A Dask scheduler whose workers read states; each has the model's file at the same path.",
    ),
]


@dataclass(frozen=True)
class Sharing:
    """The options."""

    jobs: Jobs = 1
    cluster: Cluster = None

    def between(self, model: Model) -> AbstractContextManager[None]:
        """Raises FsLocalError for options that don't go together, and as `fs_local.shards.jobs`."""
        from fs_local.errors import FsLocalError
        from fs_local.shards import jobs

        if self.jobs > 1 and self.cluster is not None:
            raise FsLocalError("--jobs is for this machine, and --cluster for others; leave one of them out")
        if model.is_remote and (self.jobs > 1 or self.cluster is not None):
            raise FsLocalError(
                "--jobs and --cluster open the model in several processes, and a worker (--rpc) serves one client; leave one of them out"
            )
        return jobs(self.jobs, self.cluster)
