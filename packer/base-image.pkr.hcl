# The newest EKS AL2023 image with NVIDIA's driver, as AWS recommends it for this version of Kubernetes.

data "amazon-parameterstore" "base" {
  name   = "/aws/service/eks/optimized-ami/${var.kubernetes_version}/amazon-linux-2023/${var.architecture}/nvidia/recommended/image_id"
  region = var.region
}

locals {
  base_image = data.amazon-parameterstore.base.value
}
