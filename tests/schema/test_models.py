"""Django's picture of each table against the table."""

import pytest
from django.db import connection, models

from pg.fields import EnumField
from tests.schema.catalog import columns_of, name_of, room_models, rows, type_oid

pytestmark = pytest.mark.django_db
every_model = pytest.mark.parametrize("model", room_models(), ids=lambda model: model._meta.label)


@every_model
def test_table_and_columns_exist(model):
    columns = columns_of(model)
    assert columns, f"{name_of(model)} is not in the database: name its .sql file in a migration"
    missing = {field.column for field in model._meta.concrete_fields} - set(columns)
    assert not missing, (
        f"{name_of(model)} has no column {sorted(missing)}: add it to the table or drop the field"
    )


@every_model
def test_columns_have_the_type_and_length_of_their_field(model):
    columns = columns_of(model)
    for field in model._meta.concrete_fields:
        column = columns[field.column]
        wanted = getattr(field, "output_field", field).db_type(connection)
        where = f"{name_of(model)}.{field.column}"
        assert column.base_type == type_oid(wanted), (
            f"{where} is not {wanted}: correct the field or the table"
        )
        if isinstance(field, models.CharField) and not isinstance(field, EnumField) and column.max_length:
            assert field.max_length == column.max_length, f"{where} holds {column.max_length} characters"


@every_model
def test_columns_are_null_where_their_field_is(model):
    columns = columns_of(model)
    for field in model._meta.concrete_fields:
        if not isinstance(field, models.GeneratedField):
            assert columns[field.column].is_not_null != field.null, (
                f"{name_of(model)}.{field.column}: say NOT NULL in the table exactly where the field has no null=True"
            )


@every_model
def test_generated_columns_are_generated_fields(model):
    generated = {name for name, column in columns_of(model).items() if column.is_generated}
    known = {f.column for f in model._meta.concrete_fields if isinstance(f, models.GeneratedField)}
    fields = {f.column for f in model._meta.concrete_fields}
    assert generated & fields == known, (
        f"{name_of(model)}: Django may write no generated column, and must not take another one for generated"
    )


@every_model
def test_model_knows_every_column_that_must_be_given(model):
    known = {field.column for field in model._meta.concrete_fields}
    for column in columns_of(model).values():
        if column.is_not_null and not column.has_default:
            assert column.name in known, f"{name_of(model)}.{column.name} needs a field or a DEFAULT"


@every_model
def test_primary_key_is_the_model_s_or_the_declared_one(model):
    found = rows(
        """
        SELECT array_agg(a.attname::text ORDER BY u.place)
        FROM pg_constraint k CROSS JOIN LATERAL unnest(k.conkey) WITH ORDINALITY AS u (attnum, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum
        WHERE k.conrelid = to_regclass(%s) AND k.contype = 'p'
        """,
        [model._meta.db_table],
    )[0][0]
    partitioning = getattr(model, "partitioning", None)
    wanted = (partitioning and partitioning.unique_key) or (model._meta.pk.column,)
    assert tuple(found or ()) == tuple(wanted), (
        f"{name_of(model)}: where the table's key is not the model's, declare unique_key in `partitioning`"
    )


@every_model
def test_rows_are_found_by_the_model_s_key(model):
    assert rows(
        """
        SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = to_regclass(%s) AND a.attname = %s AND i.indpred IS NULL
        """,
        [model._meta.db_table, model._meta.pk.column],
    ), f"{name_of(model)}: no index begins with {model._meta.pk.column}, by which the admin opens a row"


def foreign_keys(model):
    return {
        (row[0], row[1])
        for row in rows(
            """
            SELECT a.attname, n.nspname || '.' || f.relname
            FROM pg_constraint k
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
            JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace n ON n.oid = f.relnamespace
            WHERE k.conrelid = to_regclass(%s) AND k.contype = 'f' AND k.conparentid = 0
            """,
            [model._meta.db_table],
        )
    }


@every_model
def test_foreign_keys_are_the_model_s(model):
    relations = [field for field in model._meta.concrete_fields if isinstance(field, models.ForeignKey)]
    bound = {(field.column, name_of(field.related_model)) for field in relations if field.db_constraint}
    free = {field.column for field in relations if not field.db_constraint}
    found = foreign_keys(model)
    for column, target in bound:
        assert (column, target) in found or (column, f"public.{target}") in found, (
            f"{name_of(model)}.{column} has no REFERENCES {target}: add it, or say db_constraint=False"
        )
    assert not free & {column for column, _ in found}, f"{name_of(model)}: db_constraint=False is not true"


@pytest.mark.parametrize("model", room_models(), ids=lambda model: model._meta.label)
def test_django_leaves_cascades_to_the_database(model):
    """Django would load every child to delete it; the table's own ON DELETE does it."""
    for field in model._meta.concrete_fields:
        if isinstance(field, models.ForeignKey) and '"' in field.related_model._meta.db_table:
            assert field.remote_field.on_delete is models.DO_NOTHING, f"{model._meta.label}.{field.name}"
