"""The four database roles: the plan, and for each what it must not do, on a real server."""

from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from django.db import connections
from psycopg.conninfo import make_conninfo

from cockpit.checks import look_at_roles
from cockpit.database_roles import apply_roles, plan_roles
from cockpit.grants import READ, ROWS, Relation, difference, wanted_rights
from cockpit.management.commands.roles import apply, plan
from tests.conftest import WORKER, use_database

SECRET = "not very secret"


@pytest.fixture(scope="module")
def world(clones, template_database, django_db_setup, django_db_blocker):
    """A database of this module's own, with the roles under names of this process's own: roles belong to the server."""
    from django.conf import settings

    patch = pytest.MonkeyPatch()
    pools = {name: replace(pool, role=f"{pool.role}_{WORKER}") for name, pool in settings.POOLS.items()}
    urls = {
        **settings.DATABASE_URLS,
        "background": [{"USER": pool.role, "PASSWORD": SECRET} for pool in pools.values()],
    }
    patch.setattr(settings, "POOLS", pools)
    patch.setattr(settings, "DATABASE_URLS", urls)
    usual = connections["default"].settings_dict["NAME"]
    database = clones.create(f"roles_{WORKER}")
    with django_db_blocker.unblock():
        use_database(database.name)
        try:
            first = plan_roles()
            done, refused = apply_roles()
            yield {"database": database, "first": first, "done": done, "refused": refused,
                   "roles": {name: pool.role for name, pool in pools.items()}}  # fmt: skip
        finally:
            with database.connect() as session:
                for pool in pools.values():
                    session.execute(f"DROP OWNED BY {pool.role}")
                    session.execute(f"DROP ROLE {pool.role}")
            use_database(usual)
            patch.undo()
    clones.drop(database.name)


@pytest.fixture
def as_role(world):
    @contextmanager
    def open_as(pool):
        dsn = make_conninfo(world["database"].url, user=world["roles"][pool], password=SECRET)
        with psycopg.connect(dsn, autocommit=True) as session:
            yield session

    return open_as


# -- the plan ----------------------------------------------------------------------------------------------------
def test_the_plan_says_what_is_missing_and_apply_leaves_nothing(world):
    assert world["first"]
    assert [step.action for step in world["first"]].count("create") == 4
    assert world["refused"] == []
    assert plan_roles() == []


def test_no_password_is_printed(world):
    assert not any(SECRET in f"{step.action}{step.object}{step.why}" for step in world["done"])


def test_a_second_apply_does_nothing(world):
    assert apply(dry_run=False).counts == {"done": 0, "refused": 0}
    assert plan().ok


def test_a_right_too_many_is_taken_away_and_doctor_says_so_before(world):
    with world["database"].connect() as session:
        session.execute(f"GRANT DELETE ON operators.audit TO {world['roles']['primary']}")
    (finding,) = look_at_roles()
    assert not finding.ok
    assert "1 differences: revoke operators.audit" in finding.detail
    steps = plan().steps
    assert [(step["action"], step["object"]) for step in steps] == [("revoke", "operators.audit")]
    apply_roles()
    (finding,) = look_at_roles()
    assert finding.ok, finding.detail


def test_a_table_of_a_later_migration_is_granted_by_the_next_apply(world):
    with world["database"].connect() as session:
        session.execute("CREATE TABLE agents.later (n int)")
        assert [(step.action, step.object) for step in plan_roles()] == [("grant", "agents.later")]
        apply_roles()
        session.execute("DROP TABLE agents.later")
    assert plan_roles() == []


def test_new_partitions_are_read_at_once_and_never_written_directly(world, as_role):
    with world["database"].connect() as session:
        made = session.execute(
            "SELECT partitions.create_time_partition('messages.log', CURRENT_DATE + 90)"
        ).fetchone()[0]
    with as_role("replica") as session:
        session.execute(f"SELECT count(*) FROM {made}")
    with as_role("primary") as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(f"DELETE FROM {made}")
    assert plan_roles() == []


# -- what each must not do -------------------------------------------------------------------------------------------
FORBIDDEN = {
    "primary": [
        "CREATE TABLE agents.mine (n int)",
        "DROP TABLE agents.registry",
        "TRUNCATE agents.registry",
        "ALTER TABLE agents.registry ADD COLUMN mine int",
        "DELETE FROM operators.audit",
        "UPDATE operators.audit SET actor = 'nobody'",
        "DELETE FROM agents.state_0",
        "DELETE FROM public.django_migrations",
        "CREATE ROLE friend",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY agents.registry TO PROGRAM 'cat'",
        "ALTER SYSTEM SET fsync = off",
    ],
    "background": [
        "CREATE ROLE friend",
        "ALTER SYSTEM SET fsync = off",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY agents.registry TO PROGRAM 'cat'",
    ],
    "replica": [
        "SELECT password FROM public.auth_user",
        "SELECT session_data FROM public.django_session",
        "CREATE TEMPORARY TABLE mine (n int)",
        "CREATE TABLE agents.mine (n int)",
    ],
    "analytics": [
        "SELECT password FROM public.auth_user",
        "SELECT session_data FROM public.django_session",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mistersmith'",
        "CREATE TABLE agents.mine (n int)",
    ],
}
WRITES = ["INSERT INTO agents.registry (agent_type, agent_name) VALUES ('x', 'y')", "DELETE FROM tasks.queue"]


@pytest.mark.parametrize(
    ("pool", "statement"), [(pool, one) for pool, those in FORBIDDEN.items() for one in those]
)
def test_a_role_must_not(as_role, pool, statement):
    with (
        as_role(pool) as session,
        pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)),
    ):
        session.execute(statement)


@pytest.mark.parametrize("pool", ["replica", "analytics"])
@pytest.mark.parametrize("statement", WRITES)
def test_a_reader_writes_nothing_even_where_it_lifts_its_own_read_only_mode(as_role, pool, statement):
    with as_role(pool) as session:
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            session.execute(statement)
        session.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(statement)


# -- what each must be able to do --------------------------------------------------------------------------------------
def test_the_primary_role_writes_rows_and_names_the_leaves_of_the_queue(as_role):
    with as_role("primary") as session:
        for statement in WRITES:
            session.execute(statement)
        session.execute("INSERT INTO tasks.queue (task_type) VALUES ('echo')")
        session.execute("UPDATE tasks.queue_default SET retry_count = 1")
        session.execute("SELECT count(*) FROM monitoring.activity")


def test_the_background_role_makes_and_drops_partitions_which_the_owner_gets(world, as_role):
    with as_role("background") as session:
        made = session.execute(
            "SELECT partitions.create_time_partition('messages.log', CURRENT_DATE + 91)"
        ).fetchone()[0]
        query = "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = %s::regclass"
        assert session.execute(query, [made]).fetchone() == ("mistersmith",)
        session.execute(f"ALTER TABLE messages.log DETACH PARTITION {made}")
        session.execute(f"DROP TABLE {made}")
    assert plan_roles() == []


def test_a_leaf_of_the_queue_that_the_background_role_makes_is_the_workers_at_once(world, as_role):
    with as_role("background") as session:
        leaf = session.execute("SELECT partitions.create_task_type_partition('roles.test')").fetchone()[0]
        session.execute("SELECT partitions.copy_grants('tasks.queue', %s::regclass)", [leaf])
    with as_role("primary") as session:
        session.execute(f"UPDATE {leaf} SET retry_count = 1")
    assert plan_roles() == []


@pytest.mark.parametrize("pool", ["replica", "analytics"])
def test_readers_read(as_role, pool):
    with as_role(pool) as session:
        session.execute("SELECT count(*) FROM tasks.queue")
        assert session.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
        assert session.execute("SHOW statement_timeout").fetchone() != ("0",)


# -- the rule itself
# ----------------------------------------------------------------------------------------------------
def test_rights_that_differ_are_granted_and_revoked():
    table, roles = Relation("a.t", "r"), {"primary": "p", "replica": "r"}
    found = {("a.t", "p"): frozenset({"SELECT", "TRUNCATE"}), ("a.t", "r"): READ}
    assert difference([table], roles, found) == [
        ("REVOKE", table, "p", frozenset({"TRUNCATE"})),
        ("GRANT", table, "p", ROWS - READ),
    ]


@pytest.mark.parametrize(
    ("relation", "rights"),
    [
        (Relation("a.t", "p"), ROWS),
        (Relation("a.t_1", "r", "a.t"), READ),
        (Relation("tasks.queue_x", "r", "tasks.queue"), ROWS),
        (Relation("a.v", "v"), READ),
        (Relation("a.s", "S"), {"USAGE"}),
    ],
)
def test_what_the_primary_role_gets(relation, rights):
    assert wanted_rights("primary", relation) == rights
