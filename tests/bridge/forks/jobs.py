"""Found by Celery in the worker's parent, which uses the bridge before it forks: the worst that an import can do."""

from celery import shared_task

from bridge import connection
from tests.bridge.forks.writing import client_id, save

connection.call(client_id)
shared_task(name="forks.save")(save)
