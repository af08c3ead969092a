"""The daily mode of the guide's script, in the order that cannot lose anything: back up, verify, prune."""

from dataclasses import dataclass, field

from django.utils import timezone

from recovery.logical import back_up
from recovery.models import Backup
from recovery.prune import prune
from recovery.retention import Step
from recovery.verify import Verdict, verify


@dataclass
class Day:
    """What one daily run did. `steps` is empty when the verification failed: then nothing is pruned."""

    backup: Backup
    verdict: Verdict
    steps: list[Step] = field(default_factory=list)


def run_daily() -> Day:
    """Back up, verify, prune. A failed backup raises and nothing is verified or pruned; one that turns out damaged
    is kept as evidence and nothing is pruned. Safe twice a day: then there are two backups."""
    backup = back_up()
    day = Day(backup, verify(str(backup.pk)))
    day.backup = day.verdict.backup
    if not day.verdict.problems:
        day.steps = prune(timezone.now())
    return day
