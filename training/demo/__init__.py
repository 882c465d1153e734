"""The demonstration: a LeNet on Fashion-MNIST, broken by one pattern and then defended."""
