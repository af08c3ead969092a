"""One settings module for every process; it works with no settings at all. `docs/settings.md` lists the variables."""

import sys
from pathlib import Path

from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from kombu import Queue

from config import env as _env
from config import pools as _pools
from config.env import (
    boolean,
    choice,
    database,
    databases,
    email,
    env,
    integer,
    pattern,
    pool_size,
    s3_url,
    secret_key,
    store_url,
)
from config.face import make_face

BASE_DIR = Path(__file__).resolve().parent.parent
MISTERSMITH_HOME = _env.HOME

DEBUG = boolean("DEBUG", False)
PRODUCTION = boolean("PRODUCTION", False)
SECRET_KEY = secret_key()
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])
WEB_BIND: str = env.str("MISTERSMITH_WEB_BIND", default="127.0.0.1")
WEB_PORT = integer("MISTERSMITH_WEB_PORT", 8000, 1, 65535)
ADMIN_USER: str = env.str("MISTERSMITH_ADMIN_USER", default="admin")  # made at the first start
START_SECONDS = integer("MISTERSMITH_START_SECONDS", 60, 1, 3600)  # `up` waits that long for each process

# Without pgvector: false leaves out the room that needs it and the demo, which asserts facts.
KNOWLEDGE = boolean("MISTERSMITH_KNOWLEDGE", True)

# rooms, as strings: nothing imports config
ROOMS = [
    "pg",
    "operators",
    "monitoring",
    "partitions",
    "agents",
    "tasks",
    "messaging",
    "sessions.apps.AgentSessionsConfig",
    *(["knowledge"] if KNOWLEDGE else []),
    "bridge",
    "recovery",
    "cockpit",
    *(["demo"] if KNOWLEDGE else []),
]
MISTERSMITH_APPS: list[str] = env.list("MISTERSMITH_APPS", default=[])
INSTALLED_APPS = [
    "unfold",  # its templates stand before those of the admin
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "csp",
    "django_celery_beat",
    "config.apps.SettingsConfig",
    *ROOMS,
    *MISTERSMITH_APPS,
]
UNFOLD = make_face(without=() if KNOWLEDGE else ("knowledge",))

MIDDLEWARE = [
    "monitoring.middleware.RequestId",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "pg.middleware.ReadsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "pg.middleware.RetryMiddleware",  # the innermost
]
ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "cockpit" / "templates"],  # before the theme's own
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# -- servers ------------------------------------------------------------------------------------------------
PROCESS_KIND = choice("MISTERSMITH_PROCESS", _pools.process_kind(sys.argv), _pools.KINDS)
POOLS = {
    name: _pools.resized(
        pool,
        pool_size(f"MISTERSMITH_POOL_{name.upper()}", f"{pool.maximum}/{pool.minimum}", _pools.parse_size),
        integer(f"MISTERSMITH_POOL_{name.upper()}_PROCESSES", pool.processes, 1, 10_000),
    )
    for name, pool in _pools.POOLS.items()
}
DATABASE_URLS = {
    "primary": [database("DATABASE_URL", "postgresql://mistersmith@127.0.0.1:5432/mistersmith")],
    "owner": databases("OWNER_DATABASE_URL"),
    "background": databases("BACKGROUND_DATABASE_URL"),
    "replica": databases("REPLICA_URLS", _pools.split_urls),
    "analytics": databases("ANALYTICS_DATABASE_URL"),
}
DATABASES = _pools.make_databases(
    PROCESS_KIND, POOLS, DATABASE_URLS, integer("MISTERSMITH_CONN_MAX_AGE_SECONDS", 60, 0, 86_400)
)
POOL_SESSIONS = {name: _pools.session_settings(pool) for name, pool in POOLS.items()}
DATABASE_ROUTERS = ["pg.routing.Router"]
REPLICA_ALIASES = [
    alias for alias, entry in DATABASES.items() if entry["POOL"] == "replica" and not entry["IS_SHARED"]
]
# a command has one connection to the server that all share
ANALYTICS_ALIAS = "analytics" if PROCESS_KIND in _pools.POOLED or DATABASE_URLS["analytics"] else "default"
REPLICA_MOST_LAG_SECONDS = integer("MISTERSMITH_REPLICA_MOST_LAG_SECONDS", 10, 1, 3_600)
REPLICA_MOST_LAG_MB = integer("MISTERSMITH_REPLICA_MOST_LAG_MB", 256, 1, 1_000_000)
NATS_URL: str = env.str("NATS_URL", default="nats://127.0.0.1:4222")
CELERY_BROKER_URL: str = env.str("CELERY_BROKER_URL", default="redis://127.0.0.1:6379/0")
CACHES = {
    "default": {"BACKEND": "bridge.cache.QueryCache", "TIMEOUT": 300}
}  # docs/cache.md; NATS away: misses
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# -- Celery -------------------------------------------------------------------------------------------------
CELERY_BEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# a process that has grown beyond it is replaced after the job in hand: handlers leak
CELERY_WORKER_MAX_MEMORY_PER_CHILD = integer("MISTERSMITH_WORKER_MAX_MEMORY_MB", 2048, 100, 1_000_000) * 1024
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# short: a broker that does not answer must not hold anybody up (the worker's own reads wait 1 s at most)
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 3600,
    "socket_connect_timeout": 2,
    "socket_timeout": 5,
}
CELERY_BROKER_CONNECTION_TIMEOUT = 2
CELERY_DB_REUSE_MAX = 1_000_000_000  # connections live as long as Django's own, see config/celery.py
# Two queues, so that long tasks never keep the sweeps waiting; a worker without --queues takes from both.
CELERY_TASK_DEFAULT_QUEUE = "mistersmith"
CELERY_TASK_QUEUES = [Queue("mistersmith"), Queue("tasks")]
LONG_JOBS = [
    *("tasks.run_ticket", "knowledge.*", "recovery.*"),
    *("partitions.apply*", "partitions.attach", "partitions.release"),  # partitions.watch must not wait
]
BACKGROUND_JOBS = [name for name in LONG_JOBS if name != "tasks.run_ticket"]  # with the background pool
CELERY_TASK_ROUTES = {name: {"queue": "tasks"} for name in LONG_JOBS}
# looks each minute: it must not wait behind a backup of hours
CELERY_TASK_ROUTES["recovery.look_at_archive"] = {"queue": "mistersmith"}
CELERY_TASK_ROUTES["recovery.upload_wal"] = {"queue": "mistersmith"}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TIMEZONE = "UTC"

# -- tasks (design section 6) -------------------------------------------------------------------------------
TASKS_LEASE_SECONDS = integer("MISTERSMITH_TASKS_LEASE_SECONDS", 60, 2, 3600)
TASKS_QUEUES: list[str] = env.list("MISTERSMITH_TASKS_QUEUES", default=[])  # []: those of all known handlers
TASKS_MAX_CLAIM = integer("MISTERSMITH_TASKS_MAX_CLAIM", 50, 1, 1_000)  # short tasks at once; 1: one by one
TASKS_GRACE_SECONDS = integer("MISTERSMITH_TASKS_GRACE_SECONDS", 10, 1, 600)

# -- bridge (design section 5) ------------------------------------------------------------------------------
BRIDGE_POLL_MS = integer("MISTERSMITH_BRIDGE_POLL_MS", 50, 5, 10_000)
BRIDGE_MIN_GAP_MS = integer("MISTERSMITH_BRIDGE_MIN_GAP_MS", 10, 0, 1_000)
BRIDGE_FAST_PATH_WAIT_MS = integer("MISTERSMITH_BRIDGE_FAST_PATH_WAIT_MS", 50, 1, 1_000)
NATS_REPLICAS = integer("MISTERSMITH_NATS_REPLICAS", 3, 1, 5)

# -- partitions (docs/partitions.md) ------------------------------------------------------------------------
PARTITIONS_ARCHIVE_DIR = Path(
    env.str("MISTERSMITH_PARTITIONS_ARCHIVE_DIR", default=str(MISTERSMITH_HOME / "archive"))
).resolve()
PARTITIONS_ARCHIVE_S3_URL = s3_url("ARCHIVE_S3_URL")  # "": archives stay on this machine
PARTITIONS_LOCK_TIMEOUT_MS = integer("MISTERSMITH_PARTITIONS_LOCK_TIMEOUT_MS", 1000, 10, 60_000)

# -- recovery (design section 7) ----------------------------------------------------------------------------
BACKUP_DIR = Path(env.str("MISTERSMITH_BACKUP_DIR", default=str(MISTERSMITH_HOME / "backups"))).resolve()
BACKUP_LOGICAL_KEEP_DAYS = integer("MISTERSMITH_BACKUP_LOGICAL_KEEP_DAYS", 30, 1, 36_500)
BACKUP_SERVER = boolean("MISTERSMITH_BACKUP_SERVER", True)  # base backups besides logical ones
BACKUP_RATE_MB = integer("MISTERSMITH_BACKUP_RATE_MB", 100, 0, 100_000)  # 0: as fast as it goes
BACKUP_COMPRESS: str = env.str("MISTERSMITH_BACKUP_COMPRESS", default="")  # pg_basebackup's, "server-gzip:1"
BACKUP_PITR_DAYS = integer("MISTERSMITH_BACKUP_PITR_DAYS", 7, 1, 3_650)
BACKUP_KEEP_DAYS = integer("MISTERSMITH_BACKUP_KEEP_DAYS", 30, 0, 36_500)
BACKUP_KEEP_WEEKS = integer("MISTERSMITH_BACKUP_KEEP_WEEKS", 12, 0, 5_200)
BACKUP_KEEP_MONTHS = integer("MISTERSMITH_BACKUP_KEEP_MONTHS", 12, 0, 1_200)
BACKUP_KEEP_NEWEST = integer("MISTERSMITH_BACKUP_KEEP_NEWEST", 2, 1, 1_000)
BACKUP_STORE_URL = store_url("BACKUP_STORE_URL")  # "": backups stay in BACKUP_DIR
BACKUP_STORE_GRACE_HOURS = integer("MISTERSMITH_BACKUP_STORE_GRACE_HOURS", 72, 0, 8_760)
BACKUP_ENCRYPTION_KEYS: str = env.str(
    "BACKUP_ENCRYPTION_KEYS", default=""
)  # id:base64, the first one encrypts
BACKUP_S3_STORAGE_CLASS: str = env.str(
    "MISTERSMITH_BACKUP_S3_STORAGE_CLASS", default=""
)  # of backups, not of WAL
BACKUP_S3_LOCK_DAYS = integer("MISTERSMITH_BACKUP_S3_LOCK_DAYS", 0, 0, 36_500)
BACKUP_S3_LOCK_MODE = choice("MISTERSMITH_BACKUP_S3_LOCK_MODE", "governance", ("governance", "compliance"))
BACKUP_S3_SSE = pattern(
    "MISTERSMITH_BACKUP_S3_SSE", r"|AES256|aws:kms(:[\w/:-]+)?", "use AES256, aws:kms or aws:kms:<key id>"
)
PG_BIN_DIR: str = env.str("PG_BIN_DIR", default="")  # "": the wheel's programs, then the system's

# -- monitoring (docs/monitoring.md) --------------------------------------------------------------------------
METRICS_TOKEN: str = env.str("METRICS_TOKEN", default="")
vars().update(email("EMAIL_URL", "consolemail://"))
DEFAULT_FROM_EMAIL: str = env.str("DEFAULT_FROM_EMAIL", default="mistersmith@localhost")

# -- knowledge: embeddings over HTTP (docs/knowledge.md) ------------------------------------------------------
EMBEDDINGS_URL: str = env.str("EMBEDDINGS_URL", default="https://api.openai.com/v1")
EMBEDDINGS_API_KEY: str = env.str("EMBEDDINGS_API_KEY", default=env.str("OPENAI_API_KEY", default=""))
EMBEDDINGS_TIMEOUT_SECONDS = integer("EMBEDDINGS_TIMEOUT_SECONDS", 30, 1, 600)
EMBEDDINGS_ATTEMPTS = integer("EMBEDDINGS_ATTEMPTS", 4, 1, 20)

# -- time, language, files ----------------------------------------------------------------------------------
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = ["config.formats"]
STATIC_URL = "static/"
STATIC_ROOT = MISTERSMITH_HOME / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

# -- security -----------------------------------------------------------------------------------------------
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_REDIRECT_URL = "admin:index"
LOGIN_URL = "admin:login"
SESSION_COOKIE_NAME = "mistersmith_session"
CSRF_COOKIE_NAME = "mistersmith_csrf"
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
# Nothing from elsewhere, no script in a page, no page in a frame. The theme's Alpine needs eval, and its elements have
# styles of their own; of its two <style> elements (colours, htmx's indicator) these are the digests: when the theme or
# a colour changes, the tests in the browser fail and name the new one.
STYLES_OF_THE_THEME = [
    "'sha256-CftXQ/6rIQ3AMOrJUsQzoK+KGLgk4scJJlfXyvE/1mQ='",
    "'sha256-bsV5JivYxvGywDAZ22EZJKBFip65Ng9xoJVLbBg7bdo='",
]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, UNSAFE_EVAL],
        "style-src-elem": [SELF, *STYLES_OF_THE_THEME],
        "style-src-attr": [UNSAFE_INLINE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}
if PRODUCTION:
    SECURE_SSL_REDIRECT = boolean("SECURE_SSL_REDIRECT", True)
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]  # probes come without TLS
    SECURE_HSTS_SECONDS = integer("SECURE_HSTS_SECONDS", 31_536_000, 0, 63_072_000)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    if boolean("MISTERSMITH_BEHIND_PROXY", False):
        SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# -- traces: OpenTelemetry's own variables; nothing of it is imported unless one of the first two is set -------------
TRACING = any(
    env.str(name, default="")
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
)
OTEL_SERVICE_NAME: str = env.str("OTEL_SERVICE_NAME", default="mistersmith")

# -- logging ------------------------------------------------------------------------------------------------
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"ids": {"()": "monitoring.logs.AddIds"}},
    "formatters": {
        "line": {"()": "monitoring.logs.LineFormatter"},
        "json": {"()": "monitoring.logs.JsonLines"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": choice("LOG_FORMAT", "line", ("line", "json")),
            "filters": ["ids"],
        }
    },
    "root": {"handlers": ["console"], "level": env.str("LOG_LEVEL", default="INFO").upper()},
    # beat sends something each second: three lines each time would hide all the rest
    "loggers": {
        **{
            name: {"level": "WARNING"}
            for name in ("celery.beat", "celery.worker.strategy", "celery.app.trace")
        },
        # the web server's workers write like everybody else
        "gunicorn.error": {"handlers": ["console"], "propagate": False},
    },
}
