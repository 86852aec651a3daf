"""The documentation: pages, what makes a site of them (`build`), and the reference that is made
from the code (`reference`)."""
