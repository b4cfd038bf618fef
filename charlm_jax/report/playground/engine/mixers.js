// SPDX-License-Identifier: Apache-2.0
// Mixers by name, one character at a time. A mixer has
//
//   size                     width of its output
//   width                    number of units, if it is another
//   start()                  a state before the first character
//   step(x, state)           output for one input; changes the state
//   project(x), mix(z, s)    the two halves of `step`, if it begins with a projection of x alone
//   units                    names of the state's arrays that have a number for each unit
//   heads                    number of attention heads
//   places                   number of positions that a head attends to

const MIXERS = {
  lstm,
  gru,
  rnn,
  mingru,
  minlstm,
  rglru,
  gated_deltanet: gatedDeltaNet,
  mamba2,
  mlstm,
  slstm,
  attention,
  self_attention: selfAttention,
};
