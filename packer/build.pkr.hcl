# What is done to the builder, in AWS and in the rehearsal alike.

locals {
  ami_name = format(var.ami_name_pattern, var.architecture, var.kubernetes_version, "v${local.name_version}-${local.stamp}")
  stamp    = formatdate("YYYYMMDDhhmmss", timestamp())

  version      = regex_replace(basename(var.package), "^gpushare[-_]([0-9][0-9A-Za-z.+~]*)(-[0-9]+)?[._](x86_64|aarch64|amd64|arm64)[.](rpm|deb)$", "$1")
  name_version = regex_replace(local.version, "[^0-9A-Za-z.]", "-")
  description  = "EKS ${var.kubernetes_version} node for shared GPUs: gpushare ${local.version} on the AL2023 NVIDIA image ({{ .SourceAMI }})"

  # A package for another architecture has no builder, and is refused here, before an instance has started: a validation
  # sees one variable alone.
  package_architecture = regex_replace(basename(var.package), "^.*[._](x86_64|aarch64|amd64|arm64)[.](rpm|deb)$", "$1")
  builders = {
    "x86_64 on x86_64" = "m6i.large"
    "amd64 on x86_64"  = "m6i.large"
    "aarch64 on arm64" = "m6g.large"
    "arm64 on arm64"   = "m6g.large"
  }
  instance_type = [for type in [var.instance_type, local.builders["${local.package_architecture} on ${var.architecture}"]] : type if type != ""][0]

  known = {
    Name                          = local.ami_name
    "gpushare:version"            = local.version
    "gpushare:commit"             = var.commit
    "gpushare:kubernetes-version" = var.kubernetes_version
    "gpushare:architecture"       = var.architecture
    "gpushare:base-image"         = "{{ .SourceAMI }}"
    "gpushare:base-image-name"    = "{{ .SourceAMIName }}"
  }
  tags = merge({ for key, value in local.known : key => value if value != "" }, var.tags)

  upload = "/tmp/gpushare-image"
  sudo   = "sudo --non-interactive env {{ .Vars }} bash {{ .Path }}"
}

build {
  name = "gpushare"

  dynamic "source" {
    for_each = [var.rehearsal_host == "" ? "amazon-ebs.node" : "null.rehearsal"]
    iterator = chosen
    labels   = [chosen.value]
    content {}
  }

  provisioner "shell" {
    inline = ["mkdir -m 0700 ${local.upload}"]
  }

  provisioner "file" {
    source      = var.package
    destination = "${local.upload}/${basename(var.package)}"
  }

  provisioner "file" {
    source      = "${path.root}/files/50-gpushare.yaml"
    destination = "${local.upload}/50-gpushare.yaml"
  }

  # The file beside says nothing, and what says nothing is not installed.
  provisioner "file" {
    source      = var.config == "" ? "${path.root}/files/config.toml" : var.config
    destination = "${local.upload}/config.toml"
  }

  provisioner "shell" {
    execute_command = local.sudo
    environment_vars = [
      "UPLOAD=${local.upload}",
      "PACKAGE=${basename(var.package)}",
      "VERSION=${local.version}",
    ]
    # Cleaned first: what is left is a part of what is validated.
    scripts = [
      "${path.root}/scripts/provision.sh",
      "${path.root}/scripts/cleanup.sh",
      "${path.root}/scripts/validate.sh",
    ]
  }

  post-processor "manifest" {
    output     = var.manifest
    strip_path = true
    custom_data = {
      ami_name           = local.ami_name
      gpushare_version   = local.version
      commit             = var.commit
      kubernetes_version = var.kubernetes_version
      architecture       = var.architecture
    }
  }
}
