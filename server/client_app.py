"""ClientApp of the bundle that a coordinator ships: empty. Flower asks for one; a hospital's courier
fetches no bundle, and a stock SuperNode that does gets nothing to run."""

from flwr.clientapp import ClientApp

app = ClientApp()
