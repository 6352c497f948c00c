"""One measurement in several builds of this project and with several engines, each in a process of its own."""
