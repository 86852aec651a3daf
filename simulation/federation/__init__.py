"""Virtual hospitals: options, partition, site folders, engines, attackers."""
