"""All layers by name."""

from padless.layers.activations.activations import ELU as ELU
from padless.layers.activations.activations import Activation as Activation
from padless.layers.activations.activations import LeakyReLU as LeakyReLU
from padless.layers.activations.activations import PReLU as PReLU
from padless.layers.activations.activations import ReLU as ReLU
from padless.layers.activations.activations import Softmax as Softmax
from padless.layers.attention.attention import AdditiveAttention as AdditiveAttention
from padless.layers.attention.attention import Attention as Attention
from padless.layers.attention.multi_head_attention import GroupQueryAttention as GroupQueryAttention
from padless.layers.attention.multi_head_attention import MultiHeadAttention as MultiHeadAttention
from padless.layers.attention.position_embedding import PositionEmbedding as PositionEmbedding
from padless.layers.attention.position_embedding import RotaryEmbedding as RotaryEmbedding
from padless.layers.attention.position_embedding import SinePositionEncoding as SinePositionEncoding
from padless.layers.attention.position_embedding import TokenAndPositionEmbedding as TokenAndPositionEmbedding
from padless.layers.attention.transformer import TransformerDecoder as TransformerDecoder
from padless.layers.attention.transformer import TransformerEncoder as TransformerEncoder
from padless.layers.base.layer import Layer as Layer
from padless.layers.base.mask_creation import MaskCreatingLayer as MaskCreatingLayer
from padless.layers.convolutional.conv1d import Conv1D as Conv1D
from padless.layers.convolutional.conv1d import Conv1DTranspose as Conv1DTranspose
from padless.layers.convolutional.conv1d import Convolution1D as Convolution1D
from padless.layers.convolutional.conv1d import Convolution1DTranspose as Convolution1DTranspose
from padless.layers.convolutional.conv1d import DepthwiseConv1D as DepthwiseConv1D
from padless.layers.convolutional.conv1d import SeparableConv1D as SeparableConv1D
from padless.layers.convolutional.conv1d import SeparableConvolution1D as SeparableConvolution1D
from padless.layers.core.dense import Dense as Dense
from padless.layers.core.einsum_dense import EinsumDense as EinsumDense
from padless.layers.core.embedding import Embedding as Embedding
from padless.layers.core.identity import ActivityRegularization as ActivityRegularization
from padless.layers.core.identity import Identity as Identity
from padless.layers.core.input_layer import Input as Input
from padless.layers.core.input_layer import InputLayer as InputLayer
from padless.layers.core.lambda_layer import Lambda as Lambda
from padless.layers.core.masking import Masking as Masking
from padless.layers.core.torch_module_wrapper import TorchModuleWrapper as TorchModuleWrapper
from padless.layers.merging.concatenate_dot import Concatenate as Concatenate
from padless.layers.merging.concatenate_dot import Dot as Dot
from padless.layers.merging.elementwise import Add as Add
from padless.layers.merging.elementwise import Average as Average
from padless.layers.merging.elementwise import Maximum as Maximum
from padless.layers.merging.elementwise import Minimum as Minimum
from padless.layers.merging.elementwise import Multiply as Multiply
from padless.layers.merging.elementwise import Subtract as Subtract
from padless.layers.normalization.batch_normalization import BatchNormalization as BatchNormalization
from padless.layers.normalization.group_normalization import GroupNormalization as GroupNormalization
from padless.layers.normalization.layer_normalization import LayerNormalization as LayerNormalization
from padless.layers.normalization.layer_normalization import RMSNormalization as RMSNormalization
from padless.layers.normalization.layer_normalization import UnitNormalization as UnitNormalization
from padless.layers.pooling.attention_pooling1d import AttentionPooling1D as AttentionPooling1D
from padless.layers.pooling.global_pooling1d import FirstStep as FirstStep
from padless.layers.pooling.global_pooling1d import GlobalAveragePooling1D as GlobalAveragePooling1D
from padless.layers.pooling.global_pooling1d import GlobalAvgPool1D as GlobalAvgPool1D
from padless.layers.pooling.global_pooling1d import GlobalMaxPool1D as GlobalMaxPool1D
from padless.layers.pooling.global_pooling1d import GlobalMaxPooling1D as GlobalMaxPooling1D
from padless.layers.pooling.global_pooling1d import GlobalSumPool1D as GlobalSumPool1D
from padless.layers.pooling.global_pooling1d import GlobalSumPooling1D as GlobalSumPooling1D
from padless.layers.pooling.global_pooling1d import LastStep as LastStep
from padless.layers.pooling.pooling1d import AveragePooling1D as AveragePooling1D
from padless.layers.pooling.pooling1d import AvgPool1D as AvgPool1D
from padless.layers.pooling.pooling1d import MaxPool1D as MaxPool1D
from padless.layers.pooling.pooling1d import MaxPooling1D as MaxPooling1D
from padless.layers.preprocessing.normalization import Normalization as Normalization
from padless.layers.preprocessing.normalization import Rescaling as Rescaling
from padless.layers.regularization.dropout import AlphaDropout as AlphaDropout
from padless.layers.regularization.dropout import Dropout as Dropout
from padless.layers.regularization.dropout import GaussianDropout as GaussianDropout
from padless.layers.regularization.dropout import GaussianNoise as GaussianNoise
from padless.layers.regularization.dropout import SpatialDropout1D as SpatialDropout1D
from padless.layers.reshaping.reshape import DropMask as DropMask
from padless.layers.reshaping.reshape import Flatten as Flatten
from padless.layers.reshaping.reshape import Permute as Permute
from padless.layers.reshaping.reshape import RepeatVector as RepeatVector
from padless.layers.reshaping.reshape import Reshape as Reshape
from padless.layers.reshaping.temporal import Cropping1D as Cropping1D
from padless.layers.reshaping.temporal import UpSampling1D as UpSampling1D
from padless.layers.reshaping.temporal import ZeroPadding1D as ZeroPadding1D
from padless.layers.rnn.bidirectional import Bidirectional as Bidirectional
from padless.layers.rnn.cells import GRUCell as GRUCell
from padless.layers.rnn.cells import LSTMCell as LSTMCell
from padless.layers.rnn.cells import SimpleRNNCell as SimpleRNNCell
from padless.layers.rnn.cells import StackedRNNCells as StackedRNNCells
from padless.layers.rnn.conv_lstm1d import ConvLSTM1D as ConvLSTM1D
from padless.layers.rnn.conv_lstm1d import ConvLSTM1DCell as ConvLSTM1DCell
from padless.layers.rnn.rnn import GRU as GRU
from padless.layers.rnn.rnn import LSTM as LSTM
from padless.layers.rnn.rnn import RNN as RNN
from padless.layers.rnn.rnn import SimpleRNN as SimpleRNN
from padless.layers.rnn.time_distributed import TimeDistributed as TimeDistributed

__all__ = [
    "Activation",
    "ActivityRegularization",
    "Add",
    "AdditiveAttention",
    "AlphaDropout",
    "Attention",
    "AttentionPooling1D",
    "Average",
    "AveragePooling1D",
    "AvgPool1D",
    "BatchNormalization",
    "Bidirectional",
    "Concatenate",
    "Conv1D",
    "Conv1DTranspose",
    "ConvLSTM1D",
    "ConvLSTM1DCell",
    "Convolution1D",
    "Convolution1DTranspose",
    "Cropping1D",
    "Dense",
    "DepthwiseConv1D",
    "Dot",
    "DropMask",
    "Dropout",
    "ELU",
    "EinsumDense",
    "Embedding",
    "FirstStep",
    "Flatten",
    "GRU",
    "GRUCell",
    "GaussianDropout",
    "GaussianNoise",
    "GlobalAveragePooling1D",
    "GlobalAvgPool1D",
    "GlobalMaxPool1D",
    "GlobalMaxPooling1D",
    "GlobalSumPool1D",
    "GlobalSumPooling1D",
    "GroupNormalization",
    "GroupQueryAttention",
    "Identity",
    "Input",
    "InputLayer",
    "LSTM",
    "LSTMCell",
    "Lambda",
    "LastStep",
    "Layer",
    "LayerNormalization",
    "LeakyReLU",
    "MaskCreatingLayer",
    "Masking",
    "MaxPool1D",
    "MaxPooling1D",
    "Maximum",
    "Minimum",
    "MultiHeadAttention",
    "Multiply",
    "Normalization",
    "PReLU",
    "Permute",
    "PositionEmbedding",
    "RMSNormalization",
    "RNN",
    "ReLU",
    "RepeatVector",
    "Rescaling",
    "Reshape",
    "RotaryEmbedding",
    "SeparableConv1D",
    "SeparableConvolution1D",
    "SimpleRNN",
    "SimpleRNNCell",
    "SinePositionEncoding",
    "Softmax",
    "SpatialDropout1D",
    "StackedRNNCells",
    "Subtract",
    "TimeDistributed",
    "TokenAndPositionEmbedding",
    "TorchModuleWrapper",
    "TransformerDecoder",
    "TransformerEncoder",
    "UnitNormalization",
    "UpSampling1D",
    "ZeroPadding1D",
]
