"""Clinics: a Flower / PyTorch app."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from clinics.task import Net, load_data
from clinics.task import train as train_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train the model on local data."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())

    loader = load_data(
        context.run_config["people"],
        context.run_config["partition-seed"],
        context.node_config["partition-id"],
        context.run_config["batch-size"],
    )
    train_loss = train_fn(model, loader, context.run_config["local-epochs"], msg.content["config"]["lr"])

    metrics = {"train_loss": train_loss, "num-examples": len(loader.dataset)}
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)
