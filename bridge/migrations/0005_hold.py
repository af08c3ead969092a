import django.db.models.functions.datetime
from django.db import migrations, models

from pg.operations import CreateTable


class Migration(migrations.Migration):
    dependencies = [("bridge", "0004_hydration")]
    operations = [
        CreateTable(
            name="Hold",
            sql="bridge/0005_hold",
            fields=[
                (
                    "hold_id",
                    models.SmallIntegerField(db_default=1, default=1, primary_key=True, serialize=False),
                ),
                ("reason", models.TextField()),
                ("details", models.JSONField(default=dict)),
                ("since", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={"verbose_name_plural": "hold", "db_table": '"bridge"."hold"'},
        ),
    ]
