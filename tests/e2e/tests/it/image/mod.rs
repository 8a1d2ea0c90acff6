//! The image: `packer/` as it is, run by a real packer into a booted node that looks like EKS's image.
//!
//! Packer logs in by SSH, as it does in AWS, and the node is then booted as an instance of the image would be. In [`ec2`]
//! it believes that the node is an instance of EC2, which moto plays.

mod builder;
mod ec2;
mod files;
mod package;
mod refusals;
mod rehearsal;
mod template;
