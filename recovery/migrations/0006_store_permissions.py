from django.db import migrations

PERMISSIONS = [
    ("verify_backup", "Can verify backups by restoring them"),
    ("make_backup", "Can make backups"),
    ("pin_backup", "Can keep backups from being pruned"),
    ("restore_rows", "Can bring rows back from backups"),
    ("fetch_backup", "Can bring backups back from the store"),
    ("repair_store", "Can repair the store and encrypt it anew"),
]


class Migration(migrations.Migration):
    dependencies = [("recovery", "0005_uploads")]
    operations = [
        migrations.AlterModelOptions("backup", {"ordering": ["-backup_id"], "permissions": PERMISSIONS}),
    ]
