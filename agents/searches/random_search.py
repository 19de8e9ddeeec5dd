"""Random search: recipes of the prior, each tried once; the best few again on fresh seeds."""

from agents.searches.base import SEARCHES, Found, SearchSetting
from agents.searches.playing import Player, Shares, best_again, new_prior_recipe
from taskrl.seeding import numpy_generator
from taskrl.tasks.spec import TaskSpec


@SEARCHES.register("random-search")
def random_search(setting: SearchSetting) -> Found:
    """The best of recipes drawn from the prior, the reference among them. All are tried on one seed, so that none is
    ahead by its initial encoder.
    """
    player = Player(setting)
    shares = Shares.of(setting.num_episodes)
    rng = numpy_generator(setting.seed, "random search")
    specs: list[TaskSpec] = [player.space.reference]
    while len(specs) < shares.tried:
        specs.append(new_prior_recipe(player.space, setting.prior_strength, rng, specs))
    scores = player.score(specs, 0)
    return best_again(player, dict(zip(specs, scores, strict=True)), shares, first_seed=1)
