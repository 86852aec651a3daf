import numpy as np

from simulation.evaluation.site_probe import site_probe


def town(seed=0, n=240, columns=6):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, (n, columns)), np.repeat(["A", "B", "C"], n // 3), rng


def test_features_that_carry_the_site_are_found_out():
    x, sites, _ = town()
    assert site_probe(x, sites, 0).features < 0.5
    x[:, 0] += 2.5 * np.unique(sites, return_inverse=True)[1]
    probe = site_probe(x, sites, 0)
    assert probe.features > 0.8 > probe.features_limit
    assert (probe.chance, probe.sites, probe.cases) == (1 / 3, 3, 240)
    # nothing is missing: the pattern cannot tell
    assert probe.missingness == probe.chance


def test_missingness_alone_is_found_out():
    x, sites, rng = town(1)
    x[sites == "B", 2] = np.nan
    x[rng.random(240) < 0.1, 3] = np.nan
    probe = site_probe(x, sites, 0)
    assert probe.missingness > 0.6 > probe.missingness_limit
    assert probe == site_probe(x, sites, 0)


def test_small_sites_are_left_out_and_one_site_cannot_be_probed():
    x, sites, _ = town(2)
    sites[:76] = "B"
    probe = site_probe(x, sites, 0)
    assert (probe.sites, probe.cases) == (2, 236)
    assert site_probe(x, np.full(240, "A"), 0) is None


def test_noise_stays_within_the_limit_most_of_the_time():
    above = sum(
        site_probe(*town(seed)[:2], seed).features
        > site_probe(*town(seed)[:2], seed).features_limit
        for seed in range(3, 11)
    )
    assert above <= 3
