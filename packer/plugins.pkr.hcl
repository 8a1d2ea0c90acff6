# `packer init packer/` fetches these. From 1.10 on packer brings no builder of its own for AWS.

packer {
  required_version = ">= 1.10.0"

  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = "~> 1.3"
    }
  }
}
