import django.contrib.postgres.search
import django.core.validators
import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import pg.uuid7
import pgvector.django.halfvec
from django.db import migrations, models

from partitions.operations import CreatePartitionedTable
from pg.operations import CreateSchema, CreateTable, RunSQLFile


class Migration(migrations.Migration):
    initial = True
    dependencies = [('agents', '0001_initial')]
    operations = [
        RunSQLFile('knowledge', '0001_vector'),
        CreateSchema('knowledge'),
        CreateTable(
            name='EmbeddingModel',
            sql='knowledge/0001_models',
            fields=[
                ('model_name', models.CharField(max_length=100, primary_key=True, serialize=False)),
                ('model_version', models.CharField(max_length=20)),
                ('dimensions', models.IntegerField(validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(4000)])),
                ('provider', models.CharField(max_length=50)),
                ('is_default', models.BooleanField(db_default=False, default=False)),
                ('state', models.CharField(choices=[('active', 'Active'), ('paused', 'Paused'), ('retired', 'Retired')], db_default='paused', default='paused', help_text='active: new facts get vectors; paused: they wait; retired: the vectors are gone', max_length=20)),
                ('caught_up_at', models.DateTimeField(editable=False, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'db_table': '"knowledge"."models"',
            },
        ),
        CreateTable(
            name='Fact',
            sql='knowledge/0001_facts',
            fields=[
                ('fact_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('entity_type', models.CharField(max_length=100)),
                ('entity_id', models.CharField(max_length=255)),
                ('predicate', models.CharField(max_length=255)),
                ('object_value', models.JSONField()),
                ('object_type', models.CharField(max_length=50)),
                ('is_multivalued', models.BooleanField(db_default=False, default=False)),
                ('confidence_score', models.DecimalField(blank=True, decimal_places=3, max_digits=4, null=True)),
                ('evidence', models.JSONField(blank=True, db_default=django.db.models.expressions.RawSQL("'{}'::jsonb", []), default=dict)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('valid_from', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('valid_until', models.DateTimeField(blank=True, null=True)),
                ('closed_at', models.DateTimeField(editable=False, null=True)),
                ('retracted_at', models.DateTimeField(editable=False, null=True)),
                ('search_text', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.RawSQL('knowledge.fact_search_text(entity_id, predicate, object_value)', []), output_field=django.contrib.postgres.search.SearchVectorField(null=True))),
                ('source_agent', models.ForeignKey(blank=True, db_column='source_agent_id', null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='facts', to='agents.agent')),
                ('superseded_by', models.ForeignKey(db_column='superseded_by', editable=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='supersedes', to='knowledge.fact')),
            ],
            options={
                'db_table': '"knowledge"."facts"',
                'base_manager_name': 'objects',
            },
        ),
        CreatePartitionedTable(
            name='Embedding',
            sql='knowledge/0001_embeddings',
            strategy='list',
            key='embedding_model',
            fields=[
                ('embedding_id', models.UUIDField(default=pg.uuid7.uuid7, editable=False, primary_key=True, serialize=False)),
                ('embedding_version', models.CharField(max_length=20)),
                ('embedding_vector', pgvector.django.halfvec.HalfVectorField()),
                ('text_content', models.TextField()),
                ('content_hash', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.RawSQL('text_sha256(text_content)', []), output_field=models.CharField(max_length=64, null=True))),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('embedding_model', models.ForeignKey(db_column='embedding_model', on_delete=django.db.models.deletion.DO_NOTHING, related_name='embeddings', to='knowledge.embeddingmodel')),
                ('fact', models.ForeignKey(db_column='fact_id', on_delete=django.db.models.deletion.DO_NOTHING, related_name='embeddings', to='knowledge.fact')),
            ],
            options={
                'db_table': '"knowledge"."embeddings"',
            },
        ),
        RunSQLFile('knowledge', '0001_functions'),
    ]
