"""What boto3, Amazon's own client, must see of the S3 server in this crate."""

import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, key, secret = sys.argv[1:]
NO_RETRIES = Config(retries={"total_max_attempts": 1})


def client(key=key, secret=secret, region="us-east-1", token=None, config=NO_RETRIES):
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name=region, aws_access_key_id=key, aws_secret_access_key=secret,
        aws_session_token=token, config=config,
    )


def refused(code, status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ClientError as e:
        answer = (e.response["Error"]["Code"], e.response["ResponseMetadata"]["HTTPStatusCode"])
        assert answer == (code, status), answer
        return e.response
    raise AssertionError(f"not refused: {code}")


def read(s3, name, **how):
    return s3.get_object(Bucket="kv", Key=name, **how)["Body"].read()


s3 = client()
names = ["plain", "a/b", "a b+c", "@%?#&=~", "ä/ö", 'quote"<&>', "nl\n", "a//b"]
for name in names:
    s3.put_object(Bucket="kv", Key=name, Body=name.encode(), Metadata={"kvconnkey": "a%2Fb"})
    assert read(s3, name) == name.encode()
    head = s3.head_object(Bucket="kv", Key=name)
    assert head["Metadata"] == {"kvconnkey": "a%2Fb"} and head["ContentLength"] == len(name.encode())

# Lists, in pages and by folder.
keys = [o["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket="kv", PaginationConfig={"PageSize": 3})
        for o in page["Contents"]]
assert keys == sorted(names, key=str.encode), keys
folders = s3.list_objects_v2(Bucket="kv", Delimiter="/")
assert [p["Prefix"] for p in folders["CommonPrefixes"]] == ["a/", "ä/"], folders
pages = list(s3.get_paginator("list_objects_v2").paginate(Bucket="kv", Delimiter="/", PaginationConfig={"PageSize": 1}))
assert sum(len(p.get("CommonPrefixes", [])) for p in pages) == 2 and sum(len(p.get("Contents", [])) for p in pages) == 5
assert s3.list_objects_v2(Bucket="kv", Prefix="a/")["KeyCount"] == 2
assert s3.list_objects_v2(Bucket="kv", StartAfter="plain")["KeyCount"] == 2

# Ranges and conditions.
s3.put_object(Bucket="kv", Key="digits", Body=b"0123456789")
assert read(s3, "digits", Range="bytes=2-4") == b"234"
assert read(s3, "digits", Range="bytes=-3") == b"789"
assert read(s3, "digits", Range="bytes=8-100") == b"89"
refused("InvalidRange", 416, s3.get_object, Bucket="kv", Key="digits", Range="bytes=10-")
etag = s3.head_object(Bucket="kv", Key="digits")["ETag"]
assert read(s3, "digits", IfMatch=etag) == b"0123456789"
refused("PreconditionFailed", 412, s3.get_object, Bucket="kv", Key="digits", IfMatch='"other"')
refused("304", 304, s3.get_object, Bucket="kv", Key="digits", IfNoneMatch=etag)
refused("PreconditionFailed", 412, s3.put_object, Bucket="kv", Key="digits", Body=b"", IfNoneMatch="*")

# Refusals.
refused("NoSuchKey", 404, s3.get_object, Bucket="kv", Key="none")
refused("404", 404, s3.head_object, Bucket="kv", Key="none")
refused("NoSuchBucket", 404, s3.get_object, Bucket="none", Key="none")
refused("KeyTooLongError", 400, s3.put_object, Bucket="kv", Key="k" * 1025, Body=b"")
refused("MetadataTooLarge", 400, s3.put_object, Bucket="kv", Key="k", Body=b"", Metadata={"a": "b" * 2048})
refused("BadDigest", 400, s3.put_object, Bucket="kv", Key="k", Body=b"x", ChecksumCRC32="AAAAAA==")
refused("SignatureDoesNotMatch", 403, client(secret="wrong").get_object, Bucket="kv", Key="digits")
refused("InvalidAccessKeyId", 403, client(key="wrong").get_object, Bucket="kv", Key="digits")
refused("InvalidToken", 400, client(token="wrong").get_object, Bucket="kv", Key="digits")
# boto3 repeats the request in the region that the refusal names. The test counts both requests.
s3.put_object(Bucket="kv", Key="regional", Body=b"bytes")
assert read(client(region="eu-west-1"), "regional") == b"bytes"
s3.delete_object(Bucket="kv", Key="regional")
assert s3.get_bucket_location(Bucket="kv")["LocationConstraint"] == "us-east-1"
assert s3.head_bucket(Bucket="kv")["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"] == "us-east-1"

# Checksums come back.
s3.put_object(Bucket="kv", Key="summed", Body=b"123456789", ChecksumAlgorithm="CRC32")
assert s3.get_object(Bucket="kv", Key="summed", ChecksumMode="ENABLED")["ChecksumCRC32"] == "y/Q5Jg=="

# Payloads that are signed.
signed = client(config=Config(s3={"payload_signing_enabled": True}))
signed.put_object(Bucket="kv", Key="signed", Body=b"bytes")
assert read(s3, "signed") == b"bytes"

# Uploads in parts.
upload = s3.create_multipart_upload(Bucket="kv", Key="parts", Metadata={"m": "v"})["UploadId"]
at = {"Bucket": "kv", "Key": "parts", "UploadId": upload}
etags = [s3.upload_part(PartNumber=n, Body=body, **at)["ETag"] for n, body in [(1, b"a" * (5 << 20)), (2, b"b")]]
assert [u["Key"] for u in s3.list_multipart_uploads(Bucket="kv")["Uploads"]] == ["parts"]
parts = [{"PartNumber": n + 1, "ETag": etag} for n, etag in enumerate(etags)]
refused("InvalidPartOrder", 400, s3.complete_multipart_upload, MultipartUpload={"Parts": parts[::-1]}, **at)
refused("InvalidPart", 400, s3.complete_multipart_upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": "x"}]}, **at)
s3.complete_multipart_upload(MultipartUpload={"Parts": parts}, **at)
assert read(s3, "parts") == b"a" * (5 << 20) + b"b" and s3.head_object(Bucket="kv", Key="parts")["Metadata"] == {"m": "v"}
small = {"Bucket": "kv", "Key": "small"}
small["UploadId"] = s3.create_multipart_upload(**small)["UploadId"]
parts = [{"PartNumber": n, "ETag": s3.upload_part(PartNumber=n, Body=b"s", **small)["ETag"]} for n in (1, 2)]
refused("EntityTooSmall", 400, s3.complete_multipart_upload, MultipartUpload={"Parts": parts}, **small)
s3.abort_multipart_upload(**small)
refused("NoSuchUpload", 404, s3.abort_multipart_upload, **small)

# Deletes.
s3.delete_object(Bucket="kv", Key="digits")
s3.delete_object(Bucket="kv", Key="digits")
deleted = s3.delete_objects(Bucket="kv", Delete={"Objects": [{"Key": name} for name in names + ["none"]]})
assert sorted(d["Key"] for d in deleted["Deleted"]) == sorted(names + ["none"])
assert [o["Key"] for o in s3.list_objects_v2(Bucket="kv")["Contents"]] == ["parts", "signed", "summed"]

# Buckets.
s3.create_bucket(Bucket="new")
refused("BucketAlreadyOwnedByYou", 409, client().create_bucket, Bucket="new")
assert [b["Name"] for b in s3.list_buckets()["Buckets"]] == ["kv", "new"]
refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket="kv")
s3.delete_bucket(Bucket="new")
