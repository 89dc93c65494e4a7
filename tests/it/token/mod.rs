//! The rotation of a cluster's token, with a stand-in for k3s that behaves as its sources say.

mod cluster;
mod cuts;
mod order;
mod refused;
