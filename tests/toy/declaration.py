from mae.config.types import Positive, Rate, Section
from mae.objectives.charts import Metric
from mae.objectives.declaration import Declaration


class ToyModel(Section):
    """Variational autoencoder."""

    latents: Positive = 4
    """number of latents per image"""
    beta: Rate = 0.1
    """weight of the KL divergence, after a warm-up over the first half of the run"""


class ToyDeclaration(Declaration):
    name = "toy"
    summary = "variational autoencoder (for tests)"
    model = ToyModel
    defaults = {"optim": {"weight_decay": 0.01}}
    losses = ("error", "kl")
    statistics = {"nats": "mean", "used": "sum"}
    metrics = (Metric("nats", "KL", ".2f"), Metric("usage", "usage", ".0%"))

    def figures(self, losses, statistics):
        used = statistics["used"]
        share = sum(count > 0 for count in used) / len(used)
        return {"nats": statistics["nats"], "usage": share}


DECLARATION = ToyDeclaration()
