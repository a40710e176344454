#!/opt/moto/bin/python3
"""The lab's S3 from inside: ``put BUCKET KEY <data``, ``put-all BUCKET <tar``, ``delete BUCKET KEY``, ``list``."""

from __future__ import annotations

import importlib
import sys
import tarfile


def main(command: str, bucket: str, key: str = "") -> None:
    """Run one command; ``put`` makes the bucket."""
    client = importlib.import_module("boto3").client(
        "s3",
        region_name="us-east-1",
        endpoint_url="http://localhost:5000",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    if command == "put":
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=key, Body=sys.stdin.buffer.read())
    elif command == "put-all":
        client.create_bucket(Bucket=bucket)
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is not None:
                    client.put_object(Bucket=bucket, Key=member.name, Body=stream.read())
    elif command == "delete":
        client.delete_object(Bucket=bucket, Key=key)
    else:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        print("\n".join(item["Key"] for page in pages for item in page.get("Contents", ())))


if __name__ == "__main__":
    main(*sys.argv[1:])
