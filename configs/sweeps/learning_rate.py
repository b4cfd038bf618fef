"""Learning-rate sweep: which peak rate is best for a model?

    charlm sweep --config=sweeps/learning_rate --jobs=2
    charlm sweep --config=sweeps/learning_rate:transformer --jobs=2

Seven peaks, each twice the previous one, in otherwise identical runs of one seed. The argument is
one of the models of sweeps/variants. A best rate at either end of the seven is inconclusive.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import attention, base, gru, hybrid, lstm, mingru, transformer

MODELS = {
    "lstm": lstm,
    "gru": gru,
    "attention": attention,
    "transformer": transformer,
    "mingru": mingru,
    "hybrid": hybrid,
}
RATES = (1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2, 8e-2)


def get_config(model: str = "lstm") -> ConfigDict:
    return base.pick(model, MODELS).get_config()


def sweep() -> list[dict[str, Any]]:
    return [{"optimizer.learning_rate": rate} for rate in RATES]
