"""A federation's kits: keys and certificates, what a coordinator and a site start from, and the
doctor."""
