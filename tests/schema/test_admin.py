"""Every model is in the admin, and none of its pages reads a big table."""

import pytest
from django.contrib import admin
from django.db import models
from django.urls import reverse

from pg.admin import BigTableAdmin, ReadOnlyAdmin
from tests.schema.catalog import ROOT, name_of, our_schemas, room_models, rows

pytestmark = pytest.mark.django_db
MODELS = room_models()
PARTITIONED = [model for model in MODELS if hasattr(model, "partitioning")]
HISTORY = [model for model in PARTITIONED if model.partitioning.strategy == "range"]


def label(model):
    return model._meta.label


def address_of(model, page):
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}")


@pytest.mark.parametrize("model", MODELS, ids=label)
def test_model_is_registered_and_its_list_opens(model, admin_client):
    assert model in admin.site._registry, f"register it in {model._meta.app_config.name}/admin.py"
    assert admin_client.get(address_of(model, "changelist")).status_code == 200


@pytest.mark.parametrize("model", PARTITIONED, ids=label)
def test_partitioned_tables_are_not_counted_or_scanned(model):
    registered = admin.site._registry[model]
    assert isinstance(registered, BigTableAdmin)
    assert not registered.date_hierarchy
    assert not registered.show_full_result_count


@pytest.mark.parametrize("model", HISTORY, ids=label)
def test_history_is_read_only(model, admin_client):
    assert isinstance(admin.site._registry[model], ReadOnlyAdmin)
    assert admin_client.get(address_of(model, "add")).status_code == 403


@pytest.mark.parametrize("model", MODELS, ids=label)
def test_lists_join_the_foreign_keys_that_they_show(model):
    """Else the list runs a query per row."""
    registered = admin.site._registry[model]
    shown = {
        field.name
        for field in model._meta.concrete_fields
        if isinstance(field, models.ForeignKey) and field.name in registered.list_display
    }
    joined = registered.list_select_related
    assert joined is True or shown <= set(joined or ())


def test_every_table_is_described():
    page = (ROOT / "docs" / "schema.md").read_text("utf-8")
    tables = rows(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY (%s) AND n.nspname <> 'public'",
        [our_schemas()],
    )
    for schema, table in tables:
        section = page.partition(f"\n## {schema}")[2].partition("\n## ")[0]
        assert f"`{table}`" in section, f"docs/schema.md says nothing of {schema}.{table}"


def test_every_table_has_a_model():
    """Tables that only triggers and functions read are named here."""
    tables = rows(
        "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY (%s) AND n.nspname <> 'public'",
        [our_schemas()],
    )
    assert {row[0] for row in tables} - {name_of(model) for model in MODELS} == {
        "agents.status_transitions",
        "bridge.tombstones",
        "tasks.starts",
        "tasks.status_transitions",
    }
