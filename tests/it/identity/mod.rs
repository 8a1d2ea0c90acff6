//! A node that finds out who it is, and publishes nothing that CloudWatch would refuse or bill by mistake.
//!
//! * `boot`: the metadata service, the tags, the region and the credentials come late, or never (C11, C12);
//! * `sources`: who wins: the configuration, the service, the cache, the kubelet's files;
//! * `hostile`: what answers in the metadata service's place;
//! * `refusals`: what is sorted out before it is sent (C7), and the cap on series (C19);
//! * `skew`: a clock that is not CloudWatch's (C10);
//! * `scene`: the pretended instance, its files and its services.

mod boot;
mod hostile;
mod refusals;
mod scene;
mod skew;
mod sources;
