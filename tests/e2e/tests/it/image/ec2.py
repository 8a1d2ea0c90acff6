"""What the test asks the simulated EC2 besides packer: `ec2.py import-key FILE`, `ec2.py describe`, `ec2.py requests FILE`."""

import base64
import json
import sys
import time
import urllib.parse

import boto3
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

URL = "http://127.0.0.1:5005"
PATIENCE_SECONDS = 30


def client():
    config = Config(retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    return boto3.client("ec2", endpoint_url=URL, region_name="us-east-1", config=config, **keys)


def import_key(file):
    """The key that packer logs in with. The first call: it waits until there is an EC2."""
    ec2, begun = client(), time.monotonic()
    with open(file, "rb") as key:
        material = key.read()
    while True:
        try:
            return ec2.import_key_pair(KeyName="rehearsal", PublicKeyMaterial=material)["KeyName"]
        except EndpointConnectionError:
            if time.monotonic() - begun > PATIENCE_SECONDS:
                raise
            time.sleep(0.05)


def describe():
    """All that packer could have made and left."""
    ec2 = client()
    reservations = ec2.describe_instances()["Reservations"]
    return {
        "images": ec2.describe_images(Owners=["self"])["Images"],
        "snapshots": ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"],
        "volumes": ec2.describe_volumes()["Volumes"],
        "instances": [instance for reservation in reservations for instance in reservation["Instances"]],
        "groups": [group["GroupName"] for group in ec2.describe_security_groups()["SecurityGroups"]],
        "keys": [key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]],
    }


def requests(file):
    """The parameters of every request so far, in their order."""
    with open(file, encoding="utf-8") as lines:
        bodies = [base64.b64decode(json.loads(line)["body"]).decode() for line in lines]
    return [dict(urllib.parse.parse_qsl(body)) for body in bodies]


VERBS = {"import-key": import_key, "describe": describe, "requests": requests}
print(json.dumps(VERBS[sys.argv[1]](*sys.argv[2:]), default=str))
