"""The place in `report.html` where a site may put its own pictures: server and client both know it, and neither imports the other."""

PICTURES = "<!-- fedmets: place for the site's own pictures -->"
