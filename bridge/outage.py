"""Says once that something is away, and once that it is back."""

import logging
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass
class Outage:
    """The troubles of one part of the bridge, as the log tells them."""

    name: str
    trouble: str = ""

    def note(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("%s waits: %s", self.name, trouble)
        self.trouble = trouble

    def end(self) -> None:
        if self.trouble:
            log.warning("%s goes on", self.name)
        self.trouble = ""
