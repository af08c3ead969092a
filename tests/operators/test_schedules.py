import pytest
from django_celery_beat.models import PeriodicTask

from config.celery import app
from operators.schedules import declare_schedule, declared_schedules, install_schedules

pytestmark = pytest.mark.django_db


def test_every_declared_schedule_is_a_row_and_names_a_job_that_exists():
    app.loader.import_default_modules()
    rows = dict(PeriodicTask.objects.values_list("name", "task"))
    for schedule in declared_schedules():
        assert rows[schedule.name] == schedule.job
        assert schedule.job in app.tasks, f"{schedule.name}: no Celery job is called {schedule.job}"


def test_an_operators_edit_outlives_the_next_migrate():
    row = PeriodicTask.objects.get(name="partitions: upkeep")
    row.enabled = False
    row.save()
    assert install_schedules() == 0
    row.refresh_from_db()
    assert not row.enabled


def test_a_deleted_row_comes_back():
    PeriodicTask.objects.filter(name="agents: judge liveness").delete()
    assert install_schedules() == 1
    row = PeriodicTask.objects.get(name="agents: judge liveness")
    assert (row.interval.every, row.interval.period) == (15, "seconds")


@pytest.mark.parametrize("when", [{}, {"every_seconds": 1, "crontab": "* * * * *"}])
def test_a_schedule_without_exactly_one_time_is_refused(when):
    with pytest.raises(ValueError, match="one of them"):
        declare_schedule("x", "y", **when)
