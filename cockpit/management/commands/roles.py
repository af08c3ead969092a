"""manage.py roles: plan, apply."""

from typing import Any

from cockpit.database_roles import Step, apply_roles, passwords, plan_roles, role_names
from operators.audit import Actor, record
from operators.command import Answer, OperatorCommand


class Command(OperatorCommand):
    help = "The four roles of the database and what they may do. OWNER_DATABASE_URL must be allowed to create roles."

    def add_verbs(self) -> None:
        self.add_verb("plan", plan, "what is missing; changes nothing; exit 1 when something is")
        parser = self.add_verb("apply", apply, "create the roles and give, or take away, what the plan says")
        parser.add_argument("--dry-run", action="store_true", help="print the plan")


def plan(**_: Any) -> Answer:
    steps = plan_roles()
    return Answer(steps=shown(steps), counts={"steps": len(steps)}, warnings=without_login(), ok=not steps)


def apply(dry_run: bool, **_: Any) -> Answer:
    if dry_run:
        return plan()
    done, refused = apply_roles()
    if done:
        record(Actor.of_command(), "cockpit.apply_roles", role_names().values(), details={"steps": len(done)})
    warnings = [f"{step.action} {step.object} ({step.why}): {error}" for step, error in refused]
    if refused:
        warnings.append(
            "let a superuser run `manage.py roles apply` once: OWNER_DATABASE_URL=postgresql://postgres@..."
        )
    counts = {"done": len(done), "refused": len(refused)}
    return Answer(steps=shown(done), counts=counts, warnings=warnings + without_login(), ok=not refused)


def shown(steps: list[Step]) -> list[dict[str, str]]:
    return [{"action": step.action, "object": step.object, "why": step.why} for step in steps]


def without_login() -> list[str]:
    """Roles that no URL of the settings names are there for SET ROLE only."""
    names = [name for name in role_names().values() if name not in passwords()]
    return [f"no URL of the settings logs in as {', '.join(names)} (docs/operate.md, Roles)"] if names else []
