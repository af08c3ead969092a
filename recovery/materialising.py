"""Make a data directory from backups, for the user that PostgreSQL runs as."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from pg import account
from recovery import catalogue
from recovery.errors import Damaged, UnfitTools
from recovery.models import Backup
from recovery.tools import Tools, run


def materialise(chain: list[Backup], data: Path, tools: Tools, sync: bool = True) -> None:
    """Make data directory `data` from a base backup and its incremental ones, oldest first, owned by who will run it.

    Never by hard links: the copy would write into the backup. Raises ToolFailed, Damaged.
    """
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=data.parent) as room:
        folders = [unpacked(backup, Path(room)) for backup in chain]
        if len(folders) == 1:
            run(["cp", "-a", "--reflink=auto", str(folders[0]), str(data)], {**os.environ, "LC_ALL": "C"})
        else:
            tools.require("pg_combinebackup")
            options = [] if sync else ["--no-sync"]
            argv = [tools.program("pg_combinebackup"), *options, f"--output={data}", *map(str, folders)]
            run(argv, {"LC_ALL": "C"})
    if not (data / "backup_label").is_file():
        raise Damaged(f"{data} has no backup_label: replaying it would corrupt it", "choose another backup")
    data.chmod(0o700)
    give_to_server(data)


def unpacked(backup: Backup, room: Path) -> Path:
    """Return the folder of a backup's plain files, unpacked into `room` where it is stored as a tar file."""
    data = catalogue.folder_of(backup) / "data"
    packed = [path for path in data.glob("base.tar*") if path.suffix in (".tar", ".gz")]
    if not packed:
        return data
    folder = room / str(backup.pk)
    folder.mkdir(mode=0o700)
    with tarfile.open(packed[0]) as tar:
        tar.extractall(folder, filter="tar")
    shutil.copy2(data / "backup_manifest", folder)
    return folder


def give_to_server(path: Path) -> None:
    """Let the user that PostgreSQL must run as own everything below `path`."""
    if user := account.server_user():
        entry = account.ensure_user(user)
        run(["chown", "-R", f"{entry.pw_uid}:{entry.pw_gid}", str(path)], {**os.environ})


def runnable(tools: Tools) -> Tools:
    """Return the programs in a folder that the server's user can enter. Raises UnfitTools."""
    user = account.server_user()
    if user is None:
        return tools
    entry = account.ensure_user(user)
    package = tools.folder.parent.parent
    copies = sorted(account.shelter_path(package).glob(f"*/{package.name}/pginstall/bin"))
    for folder in (tools.folder, *reversed(copies)):
        if account.can_execute(entry, folder / "postgres"):
            return Tools(folder, tools.version)
    raise UnfitTools(
        f"user {user} cannot run {tools.folder}/postgres",
        "set PG_BIN_DIR to a bin folder with the server's programs that everybody may enter",
    )
