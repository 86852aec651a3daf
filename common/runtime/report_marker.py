"""Report marker: the place in `report.html` for a site's own pictures. Server and client both know
it, and neither imports the other."""

PICTURES = "<!-- fedmets: place for the site's own pictures -->"
