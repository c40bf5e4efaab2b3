"""Networks that a person could bring."""

from collections import OrderedDict  # noqa: F401  (a class of another package)

import torch
from torch import nn

import sa


class Flat(nn.Module):
    """A linear map of images of 8 x 8."""

    def __init__(self, outputs=10):
        super().__init__()
        self.map = nn.Linear(64, outputs)

    def forward(self, x):
        return self.map(x.flatten(1))


class CNN(nn.Module):
    """A small convolutional network for images (1, 8, 8), with dropout."""

    def __init__(self, width=4, classes=10, drop=0.5):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 3), nn.Conv2d(width, width, 3)
        self.drop, self.fc = nn.Dropout(drop), nn.Linear(16 * width, 32)
        self.head = nn.Linear(32, classes)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x)))).flatten(1)
        return self.head(torch.relu(self.fc(self.drop(x))))


class Signs(nn.Module):
    """Two layers of signs, for images (1, 8, 8)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.c(sa.sign(self.b(sa.sign(self.a(x.flatten(1))))))


class Several(nn.Module):
    """Returns numbers in a square for every row."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(8, 5)

    def forward(self, x):
        return self.map(x[:, 0])


class Rows(nn.Module):
    """Reads the rows of an image (1, 8, 8) one after another; an LSTM has no batching rule."""

    def __init__(self, width=3):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, width, batch_first=True), nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.lstm(x[:, 0])[0][:, -1])
