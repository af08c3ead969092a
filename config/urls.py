from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

admin.site.site_header = "Mister Smith"
admin.site.site_title = "Mister Smith"
admin.site.index_title = "The fleet"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("", include("monitoring.urls")),
    path("admin/", include("cockpit.urls")),
    path("admin/", admin.site.urls),
]
