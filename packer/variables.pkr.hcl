# What a build can be told. docs/image.md explains each; this file, build.pkr.hcl, source-ami.pkr.hcl and
# source-rehearsal.pkr.hcl are kept to what packer 1.6.6 understands, because the tests run them with it.

variable "package" {
  type        = string
  description = "Path of gpushare's package, named as `cargo xtask dist` names it: gpushare-0.1.0-1.x86_64.rpm."

  validation {
    condition     = regex_replace(basename(var.package), "^gpushare[-_][0-9][0-9A-Za-z.+~]*(-[0-9]+)?[._](x86_64|aarch64|amd64|arm64)[.](rpm|deb)$", "") == ""
    error_message = "The package is a file such as gpushare-0.1.0-1.x86_64.rpm: build it with `cargo xtask dist` and keep its name, which has the version."
  }
}

variable "kubernetes_version" {
  type        = string
  default     = "1.35"
  description = "The cluster's Kubernetes version, as in 1.35: the kubelet is part of the image."

  validation {
    condition     = regex_replace(var.kubernetes_version, "^1[.][3-9][0-9]$", "") == ""
    error_message = "The kubernetes_version is a minor version such as 1.35, as `aws eks describe-cluster` shows it."
  }
}

variable "architecture" {
  type        = string
  default     = "x86_64"
  description = "Of the nodes: x86_64 (g4dn, g5, g6, p4, p5...) or arm64 (g5g, Grace)."

  validation {
    condition     = contains(["x86_64", "arm64"], var.architecture)
    error_message = "The architecture is x86_64 or arm64."
  }
}

variable "ami_name_pattern" {
  type        = string
  description = "Of the images' names: architecture, Kubernetes version, the rest. ami.auto.pkrvars.json has it, for Terraform too."
}

variable "config" {
  type        = string
  default     = ""
  description = "Path of the configuration to bake in as /etc/gpushare/config.toml. Empty: the package's."
}

variable "commit" {
  type        = string
  default     = ""
  description = "The commit that the package was built from, for the tags. Empty: no such tag."

  validation {
    condition     = regex_replace(var.commit, "^[0-9a-f]{7,40}(-dirty)?$", "") == ""
    error_message = "The commit is a git hash: -var commit=$(git rev-parse HEAD)."
  }
}

variable "region" {
  type        = string
  default     = ""
  description = "Where the image is built and stays. Empty: that of the environment or the AWS profile."
}

variable "instance_profile" {
  type        = string
  default     = ""
  description = "Instance profile of the builder, with AmazonSSMManagedInstanceCore: packer reaches it by the session manager."
}

variable "instance_type" {
  type        = string
  default     = ""
  description = "Of the builder. Empty: m6i.large or m6g.large. Never one with a GPU."

  validation {
    condition     = regex_replace(var.instance_type, "^(g[0-9]|gr[0-9]|p[0-9]|inf|trn|dl|vt).*$", "GPU") != "GPU"
    error_message = "The builder must not have an accelerator: the driver for it would be baked in and would be wrong on other GPUs. Leave instance_type out."
  }
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Of the builder; it needs a way out to the session manager's endpoints. Empty: the default VPC's."
}

variable "kms_key_id" {
  type        = string
  default     = ""
  description = "KMS key (id, ARN or alias/NAME) that encrypts the image. Empty: the account's key for EBS."
}

variable "volume_gib" {
  type        = number
  default     = 0
  description = "Size of the root volume in GiB. 0: the base image's."
}

variable "deprecate_at" {
  type        = string
  default     = ""
  description = "When the image is to be marked as deprecated, as in 2027-06-30T00:00:00Z. Empty: never."

  validation {
    condition     = regex_replace(var.deprecate_at, "^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$", "") == ""
    error_message = "The time in deprecate_at is UTC, as in 2027-06-30T00:00:00Z."
  }
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "More tags for the image, its snapshot, and what exists while it is built."
}

variable "manifest" {
  type        = string
  default     = "manifest.json"
  description = "Where packer writes the image's id and what is in it."
}

variable "rehearsal_host" {
  type        = string
  default     = ""
  description = "Rehearse on this host over SSH instead of building an image: it is treated as the builder would be."
}

variable "rehearsal_user" {
  type        = string
  default     = "ec2-user"
  description = "Who logs in there; may use sudo without a password."
}

variable "rehearsal_key" {
  type        = string
  default     = ""
  description = "Path of the private key to log in with."
}
