# The builder in AWS. Lines that packer 1.6.6 does not know, and those that reach AWS, are marked "AWS only": the tests
# replace exactly these (tests/e2e/tests/it/image/template.rs) and run the rest against a simulated EC2.

source "amazon-ebs" "node" {
  region          = var.region
  source_ami      = local.base_image
  instance_type   = local.instance_type
  subnet_id       = var.subnet_id
  ami_name        = local.ami_name
  ami_description = local.description

  # The volume is encrypted from its first byte on, and so are its snapshot and the image, without a copy.
  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = var.volume_gib
    iops                  = 3000
    throughput            = 125
    encrypted             = true
    kms_key_id            = var.kms_key_id
    delete_on_termination = true
  }

  # Of the builder; imds_support makes it the default of every instance of the image.
  metadata_options { # AWS only
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  imds_support = "v2.0" # AWS only

  # No port is open: the session manager's agent, which the base image has, calls from inside.
  communicator            = "ssh"
  ssh_username            = "ec2-user"
  ssh_interface           = "session_manager"    # AWS only
  iam_instance_profile    = var.instance_profile # AWS only
  temporary_key_pair_type = "ed25519"            # AWS only

  tags            = local.tags
  snapshot_tags   = local.tags
  run_tags        = local.tags
  run_volume_tags = local.tags
  deprecate_at    = var.deprecate_at # AWS only
}
