# A host that is there already, in place of the builder: nothing is started and no image is made.

source "null" "rehearsal" {
  communicator         = "ssh"
  ssh_host             = var.rehearsal_host
  ssh_username         = var.rehearsal_user
  ssh_private_key_file = var.rehearsal_key
  ssh_timeout          = "1m"
}
