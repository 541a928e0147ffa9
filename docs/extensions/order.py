"""The order of the gallery's pages: as one would read them."""

from typing import final

PAGES = (
    "plot_images.py",
    "plot_clouds.py",
    "plot_eps.py",
    "plot_batches.py",
    "plot_bounds.py",
    "plot_gradients.py",
    "plot_slices.py",
    "plot_loss.py",
    "plot_digits.py",
    "plot_lorenz.py",
    "plot_trajectories.py",
    "plot_barycenters.py",
    "plot_supply_demand.py",
    "plot_roads.py",
    "plot_unbalanced.py",
    "plot_recolour.py",
    "plot_progressive.py",
    "plot_maps.py",
    "plot_flow_matching.py",
    "plot_data_set.py",
    "plot_populations.py",
    "plot_registration.py",
    "plot_couples.py",
    "plot_graphs.py",
    "plot_singles.py",
    "plot_own_problems.py",
    "plot_own_costs.py",
    "plot_export.py",
    "plot_many_problems.py",
    "plot_other_solvers.py",
)


@final
class ReadingOrder:
    """A key for sphinx-gallery to sort by; pages that are not listed come last, by name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> tuple[int, str]:
        return (PAGES.index(name) if name in PAGES else len(PAGES)), name

    def __repr__(self) -> str:
        return "<ReadingOrder>"
