import page_driver
import pytest
from made_up_run import made_up_run

from neuron_opsd.report import write_report


@pytest.fixture(scope="module")
def browser():
    opened = page_driver.start()
    yield opened
    opened.quit()


@pytest.fixture(scope="session")
def write_page(tmp_path_factory):
    def write(inputs):
        folder = tmp_path_factory.mktemp("page")
        write_report(inputs, folder)
        return folder / "report.html"

    return write


@pytest.fixture(scope="session")
def plain_page(write_page):
    return write_page(made_up_run())


@pytest.fixture(scope="session")
def hostile_page(write_page):
    return write_page(made_up_run(hostile=True))
