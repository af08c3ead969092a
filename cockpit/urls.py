from django.urls import path

from cockpit.home import show_fleet

urlpatterns = [path("fleet/", show_fleet, name="fleet")]
