"""Complete runs, as functions that return them."""

from blockvid.recipes.debug import debug
from blockvid.recipes.posttraining import (
    storybook_distill,
    storybook_stage1,
    storybook_stage2,
    wan_1_3b_distill,
    wan_1_3b_stage1,
    wan_1_3b_stage2,
)
from blockvid.recipes.probe import storybook_direction, storybook_probe
from blockvid.recipes.storybook import (
    storybook_autoencoder,
    storybook_base,
    storybook_decoder,
    storybook_sharpen,
    storybook_stills,
)

RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        storybook_autoencoder,
        storybook_decoder,
        storybook_sharpen,
        storybook_stills,
        storybook_base,
        storybook_probe,
        storybook_direction,
        storybook_stage1,
        storybook_stage2,
        storybook_distill,
        wan_1_3b_stage1,
        wan_1_3b_stage2,
        wan_1_3b_distill,
        debug,
    )
}
"""By the name that `blockvid train` takes."""
