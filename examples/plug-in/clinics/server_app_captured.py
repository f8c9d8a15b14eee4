"""Clinics: a Flower / PyTorch app."""

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from clinics.task import Net, test
from fl_privacy import CaptureUpdates, UpdateStore

# Create ServerApp
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run entry point for the ServerApp."""
    num_rounds = context.run_config["num-server-rounds"]
    lr = context.run_config["learning-rate"]
    seed = context.run_config["partition-seed"]

    # Test the global model on patients of no practice
    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"r2": test(arrays.to_torch_state_dict(), seed)})

    # Initialize FedAvg strategy
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy = CaptureUpdates(strategy, UpdateStore(context.run_config["store"]))

    # Start strategy, run FedAvg for `num_rounds`
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=num_rounds,
        evaluate_fn=evaluate,
    )

    # Keep the final model
    context.state["arrays"] = result.arrays
