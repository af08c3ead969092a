"""Brings the server's roles to what `cockpit.grants` says: plan, print, apply. Needs a role that may create roles."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection, transaction
from psycopg import sql

from cockpit.grants import MEMBERSHIPS, Relation, difference
from pg.queries import Queries

QUERIES = Queries("cockpit")
ATTRIBUTES = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"


@dataclass(frozen=True)
class Step:
    """One statement. It may hold a password: `why` and `object` are what is printed."""

    action: str
    object: str
    why: str
    statement: sql.Composable


def role_names() -> dict[str, str]:
    """Return the role of each pool."""
    return {name: pool.role for name, pool in settings.POOLS.items()}


def passwords() -> dict[str, str]:
    """Return the passwords that the URLs of the settings give to our roles."""
    entries = [entry for given in settings.DATABASE_URLS.values() for entry in given]
    return {entry["USER"]: entry["PASSWORD"] for entry in entries if entry["USER"] in role_names().values()}


def plan_roles() -> list[Step]:
    """Return the steps that are missing, in their order; none when all is as it should be. Half a dozen queries."""
    found = {row["name"]: row for row in QUERIES.run("roles", {"names": list(role_names().values())})}
    return [*plan_logins(found), *plan_memberships(), *plan_schemas(), *plan_relations(), *plan_defaults()]


def plan_logins(found: dict[str, dict[str, Any]]) -> Iterator[Step]:
    given = passwords()
    for pool, role in role_names().items():
        attributes = f"{ATTRIBUTES} {'REPLICATION' if pool == 'background' else 'NOREPLICATION'}"
        login = sql.SQL(" LOGIN PASSWORD {}").format(given[role]) if role in given else sql.SQL(" NOLOGIN")
        if role not in found:
            statement = sql.SQL("CREATE ROLE {} " + attributes).format(sql.Identifier(role)) + login
            why = "may log in: a URL has its password" if role in given else "may not log in: no URL names it"
            yield Step("create", f"role {role}", why, statement)
        elif found[role]["is_powerful"] or found[role]["can_login"] != (role in given):
            statement = sql.SQL("ALTER ROLE {} " + attributes).format(sql.Identifier(role)) + login
            yield Step("alter", f"role {role}", "its attributes differ", statement)
        yield from plan_settings(pool, role, found.get(role, {}).get("settings") or [])


def plan_settings(pool: str, role: str, found: list[str]) -> Iterator[Step]:
    """Time-outs that hold however a session begins: PgBouncer passes no options on."""
    for name, value in settings.POOL_SESSIONS[pool].items():
        if f"{name}={value}" not in found:
            statement = sql.SQL("ALTER ROLE {} SET {} = {}").format(
                sql.Identifier(role), sql.SQL(name), value
            )
            yield Step("set", f"role {role}", f"{name} = {value}", statement)


def plan_memberships() -> Iterator[Step]:
    owner = QUERIES.run("owner")[0]["owner"]
    found = {(row["role"], row["member"]) for row in QUERIES.run("memberships")}
    for pool, role in role_names().items():
        groups = (*MEMBERSHIPS[pool], *((owner,) if pool == "background" and owner != role else ()))
        for group in groups:
            if (group, role) not in found:
                why = (
                    "it owns the tables: partitions are made and dropped"
                    if group == owner
                    else "see docs/operate.md"
                )
                statement = sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(role))
                yield Step("grant", f"{group} to {role}", why, statement)


def plan_schemas() -> Iterator[Step]:
    for row in QUERIES.run("schemas", {"names": list(role_names().values())}):
        for role in sorted(set(role_names().values()) - set(row["may_use"])):
            statement = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(
                *map(sql.Identifier, (row["name"], role))
            )
            yield Step("grant", f"schema {row['name']} to {role}", "to find what is in it", statement)


def plan_relations() -> Iterator[Step]:
    """One step for all relations of a schema that get, or lose, the same."""
    names = list(role_names().values())
    relations = [Relation(row["name"], row["kind"], row["root"]) for row in QUERIES.run("relations")]
    found = {
        (row["name"], row["role"]): frozenset(row["rights"])
        for row in QUERIES.run("rights", {"names": names})
    }
    steps = difference(relations, role_names(), found)
    steps.sort(key=key_of)
    for (action, role, rights, schema, is_sequence), members in groupby(steps, key_of):
        objects = [relation.name for _, relation, _, _ in members]
        yield step_of(action, role, rights, schema, is_sequence, objects)


def key_of(step: tuple[str, Relation, str, frozenset[str]]) -> tuple[str, str, str, str, bool]:
    action, relation, role, rights = step
    return action, role, ", ".join(sorted(rights)), relation.name.partition(".")[0], relation.kind == "S"


def step_of(action: str, role: str, rights: str, schema: str, is_sequence: bool, objects: list[str]) -> Step:
    kind = "SEQUENCE" if is_sequence else "TABLE"
    targets = sql.SQL(", ").join(sql.Identifier(*name.split(".", 1)) for name in objects)
    words = sql.SQL(f"{action} {rights} ON {kind} {{}} {'TO' if action == 'GRANT' else 'FROM'} {{}}")
    shown = ", ".join(objects[:3]) + (f" and {len(objects) - 3} more of {schema}" if len(objects) > 3 else "")
    why = f"{rights} {'to' if action == 'GRANT' else 'from'} {role}"
    return Step(action.lower(), shown, why, words.format(targets, sql.Identifier(role)))


def plan_defaults() -> Iterator[Step]:
    """New tables and partitions may be read at once; what else they need, `apply` gives after the next migration."""
    readers = [role for pool, role in role_names().items() if pool != "background"]
    for row in QUERIES.run("missing_defaults", {"makers": makers(), "readers": readers}):
        words = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} GRANT SELECT ON TABLES TO {}")
        statement = words.format(*map(sql.Identifier, (row["maker"], row["schema"], row["reader"])))
        yield Step(
            "default",
            f"schema {row['schema']}",
            f"what {row['maker']} makes, {row['reader']} reads",
            statement,
        )


def makers() -> list[str]:
    return [QUERIES.run("owner")[0]["owner"], role_names()["background"]]


def apply_roles() -> tuple[list[Step], list[tuple[Step, str]]]:
    """Do what the plan says; return the steps done, and those refused with the server's words. Safe to repeat; two at
    once wait for each other. A plan is made anew until nothing new comes: what a new role lacks is seen once it is
    there."""
    done: list[Step] = []
    refused: dict[str, tuple[Step, str]] = {}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('cockpit.roles'))")
        while steps := [step for step in plan_in_order() if step.statement.as_string() not in refused]:
            for step in steps:
                try:
                    with transaction.atomic():
                        cursor.execute(step.statement)
                    done.append(step)
                except DatabaseError as error:
                    refused[step.statement.as_string()] = (step, str(error).splitlines()[0])
    return done, list(refused.values())


def existing_roles() -> set[str]:
    return {row["name"] for row in QUERIES.run("roles", {"names": list(role_names().values())})}


def plan_in_order() -> list[Step]:
    """Roles first: what they are granted can be told, and done, when they are there."""
    names = list(role_names().values())
    found = {row["name"]: row for row in QUERIES.run("roles", {"names": names})}
    return plan_roles() if len(found) == len(names) else list(plan_logins(found))
