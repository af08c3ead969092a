"""What a reader asserts about what it has read."""

from collections.abc import Iterable, Iterator
from uuid import UUID

from demo.modules import Module
from demo.reader import Entity
from knowledge.claims import Claim


def claims_of(module: Module, entities: Iterable[Entity], reader: UUID) -> list[Claim]:
    """Return the claims about a module and all that is in it, with file and line as evidence."""
    return [claim for entity in entities for claim in describe(entity, str(module.path), reader)]


def claim_of_package(package: Module, modules: int, definitions: int, reader: UUID) -> Claim:
    said = {"modules": modules, "definitions": definitions}
    evidence = {"file": str(package.path), "line": 1}
    return Claim(
        "python.package",
        package.name,
        "holds",
        said,
        source_agent_id=reader,
        confidence=1.0,
        evidence=evidence,
    )


def describe(entity: Entity, file: str, reader: UUID) -> Iterator[Claim]:
    place = {"file": file, "line": entity.line}
    said = {
        "defined_at": place,
        "signature": entity.signature,
        "summary": entity.summary,
        "documentation": entity.documentation,
    }
    for predicate, value in said.items():
        if value:
            yield Claim(
                f"python.{entity.kind}",
                entity.name,
                predicate,
                value,
                object_type="code" if predicate == "signature" else "",  # not worth a vector
                source_agent_id=reader,
                confidence=1.0,
                evidence=place,
            )
